"""A number for each text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from shardtune.errors import DataError
from shardtune.trainer.tasks.classification.problem import Counted, Problem
from shardtune.trainer.tasks.example import IGNORED_NUMBER
from shardtune.trainer.tasks.task import PerExample, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from shardtune.recipe.tasks.classification import ClassificationOptions
    from shardtune.trainer.tasks.batch import Batch

_LARGEST = 3.4028234e38
"""The largest float32."""


class Numbers(NamedTuple):
    """Summary of some labels that are numbers."""

    num: int
    total: float
    least: float
    most: float


class Regression(Problem):
    """A number. Squared error, one target per row; MSE, MAE and the correlations of Pearson and Spearman."""

    main_metric = "mse"
    counted = (Numbers,)

    def __init__(self, options: ClassificationOptions, facts: Mapping[str, Any]) -> None:
        self._mean: float = facts["label_mean"]

    @staticmethod
    def parse(label: Any, options: ClassificationOptions) -> float:
        try:
            number = math.nan if isinstance(label, bool) or not isinstance(label, str | int | float) else float(label)
        except (ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= _LARGEST:
            raise ValueError("expected a number, got")
        return number

    @staticmethod
    def count(labels: Sequence[float]) -> Numbers:
        return Numbers(len(labels), math.fsum(labels), min(labels, default=math.inf), max(labels, default=-math.inf))

    @staticmethod
    def survey(
        options: ClassificationOptions, counted: Counted, path: Path | None, *, are_sound: bool
    ) -> dict[str, Any]:
        """The mean of the training labels, and the smallest and largest label of each split."""
        ranges = {
            split: [min(piece.least for piece in pieces), max(piece.most for piece in pieces)]
            for split, pieces in counted.items()
            if any(piece.num for piece in pieces)
        }
        if are_sound and ranges["train"][0] == ranges["train"][1]:
            raise DataError(f"{path}: every row has the label {ranges['train'][0]:g}; there is nothing to learn")
        pieces = counted["train"]
        total, count = math.fsum(piece.total for piece in pieces), sum(piece.num for piece in pieces)
        return {"label_mean": total / max(1, count), "label_ranges": ranges}

    def model_config(self) -> dict[str, Any]:
        return {"num_labels": 1, "problem_type": "regression"}

    def encode(self, label: float | None) -> float:
        return IGNORED_NUMBER if label is None else label

    def show(self, labels: float) -> str:
        return f"{labels:g}"

    def num_targets(self, labels: float) -> int:
        return int(not math.isnan(labels))

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        return ((batch.of_targets(logits[:, 0]) - batch.of_targets(batch.labels)) ** 2).sum()

    def loss_of_rows(self, logits: Tensor, batch: Batch) -> Tensor:
        return ((logits[:, 0] - batch.labels) ** 2).where(batch.targets, 0.0)

    def score(self, logits: Tensor, batch: Batch) -> Scores:
        """Sums in float64, centered on the mean of the training labels, so that labels far from zero lose no digits."""
        found, true = batch.of_targets(logits[:, 0]), batch.of_targets(batch.labels)
        sums = self._sums(found.double() - self._mean, true.double() - self._mean)
        return {name: PerExample(value) if value.ndim else value for name, value in sums.items()}

    def score_rows(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The true and the predicted number of each row, as far from the mean of the training labels."""
        return {"found": logits[:, 0].double() - self._mean, "true": batch.labels.double() - self._mean}

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        times = times * ~scores["true"].isnan()
        return self._sums(scores["found"].repeat_interleave(times), scores["true"].repeat_interleave(times))

    @staticmethod
    def _sums(found: Tensor, true: Tensor) -> dict[str, Tensor]:
        import torch

        return {
            "rows": torch.tensor(len(true)),
            "errors": (found - true).abs().sum(),
            "squared_errors": ((found - true) ** 2).sum(),
            "found": found.sum(),
            "true": true.sum(),
            "found_found": (found * found).sum(),
            "true_true": (true * true).sum(),
            "found_true": (found * true).sum(),
            "every_found": found,
            "every_true": true,
        }

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """MSE, MAE and both correlations, which are 0 if all labels or all predictions are equal."""
        sums = {name: float(total) for name, total in totals.items() if total.ndim == 0}
        rows, found, true = sums["rows"], sums["found"], sums["true"]
        covariance = rows * sums["found_true"] - found * true
        spread = _spread(rows, found, sums["found_found"]) * _spread(rows, true, sums["true_true"])
        pearson = covariance / math.sqrt(spread) if spread > 0 else 0.0
        return {
            "mse": sums["squared_errors"] / rows,
            "mae": sums["errors"] / rows,
            "pearson": max(-1.0, min(1.0, pearson)),
            "spearman": rank_correlation(totals["every_found"], totals["every_true"]),
        }

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        return [{"label": round(number, 6)} for number in logits[:, 0].tolist()]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's rho of two tensors of shape (rows,): Pearson's r of their ranks; equal values share the mean rank."""
    import torch

    def ranks(values: Tensor) -> Tensor:
        _, which, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
        means: Tensor = counts.cumsum(0).double() - (counts - 1) / 2
        return means[which]

    x, y = (each - each.mean() for each in (ranks(a), ranks(b)))
    spread = float((x * x).sum() * (y * y).sum())
    return float(torch.dot(x, y)) / math.sqrt(spread) if spread > 0 else 0.0


def _spread(rows: float, total: float, squares: float) -> float:
    """The variance times rows², or 0 if it is within the rounding error of equal numbers."""
    spread = rows * squares - total**2
    return spread if spread > 1e-12 * rows * squares else 0.0
