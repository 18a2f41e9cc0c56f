"""What a label is, its loss and its counts: one class for each classification problem.

They see logits and labels only; the texts are the same for all of them.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from shardtune.errors import DataError
from shardtune.trainer.tasks.classification.label_lists import (
    LabelForms,
    Written,
    merged,
    name_of,
    names_in,
    read_written,
    settle,
)
from shardtune.trainer.tasks.example import IGNORED, IGNORED_NUMBER
from shardtune.trainer.tasks.task import PerExample, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from shardtune.recipe.tasks.classification import ClassificationOptions
    from shardtune.trainer.tasks.batch import Batch

Counted = Mapping[str, Sequence[Any]]
"""The results of `count` for the rows of each split, one per piece."""


class Numbers(NamedTuple):
    """Summary of some labels that are numbers."""

    num: int
    total: float
    least: float
    most: float


class Problem(ABC):
    """A way to label a text. By default, all labels are legal and nothing is calibrated on dev."""

    main_metric: ClassVar[str]

    @abstractmethod
    def __init__(self, options: ClassificationOptions, facts: Mapping[str, Any]) -> None: ...

    @staticmethod
    @abstractmethod
    def parse(label: Any, options: ClassificationOptions) -> Any:
        """The meaning of a label, as far as one row tells it. Raises ValueError with what was expected instead."""

    @classmethod
    def read(cls, label: Any, options: ClassificationOptions, facts: Mapping[str, Any]) -> Any:
        """The meaning of a label, once the facts are known. Raises ValueError with what was expected instead."""
        return cls.parse(label, options)

    @staticmethod
    @abstractmethod
    def count(labels: Sequence[Any]) -> Any:
        """What has to be known of some rows' parsed labels."""

    @staticmethod
    @abstractmethod
    def survey(
        options: ClassificationOptions, counted: Counted, path: Path | None, *, are_sound: bool
    ) -> dict[str, Any]:
        """The facts about the labels, from the counts of each split's rows; `path` is the file of a training row.

        Raises DataError if nothing can be learned from them, but only if the rows are sound: the faults of single rows
        are to be reported first.
        """

    @staticmethod
    def unknown(facts: Mapping[str, Any]) -> set[str]:
        """The labels that some rows have and, by the facts, none may have."""
        return set()

    @abstractmethod
    def model_config(self) -> dict[str, Any]:
        """The head, as keys of transformers' configs."""

    @abstractmethod
    def encode(self, label: Any) -> Any:
        """An example's `labels` for a parsed label; for None, labels without a target."""

    @abstractmethod
    def show(self, labels: Any) -> str:
        """An example's `labels` as text for the user."""

    @abstractmethod
    def num_targets(self, labels: Any) -> int:
        """The number of targets in an example's `labels`."""

    @abstractmethod
    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss summed over the batch's targets; float32 logits of shape (rows, outputs of the head)."""

    @abstractmethod
    def score(self, logits: Tensor, batch: Batch) -> Scores:
        """The counts of a batch; see Task."""

    @abstractmethod
    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The metrics of the summed counts."""

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        """Takes what later answers need from the dev metrics."""
        return

    @abstractmethod
    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """One prediction per row; `label` is what the column `label` would hold."""


class SingleLabel(Problem):
    """One of several names. Cross entropy, one target per row; accuracy, F1, MCC and the confusion matrix."""

    main_metric = "accuracy"

    def __init__(self, options: ClassificationOptions, facts: Mapping[str, Any]) -> None:
        self._names: list[str] = facts["label_names"]
        self._ids = {name: number for number, name in enumerate(self._names)}
        self._smoothing = options.label_smoothing
        self._weights = _class_weights(options, facts)

    @staticmethod
    def parse(label: Any, options: ClassificationOptions) -> str:
        """The name; or, of one column per label, the only one with a 1."""
        if not isinstance(label, Mapping) or len(label) < 2:
            return name_of(label)
        names = read_written(label).split("")
        if len(names) != 1:
            raise ValueError(f"expected a 1 in exactly one column, found {len(names)} in")
        return names[0]

    @staticmethod
    def count(labels: Sequence[str]) -> Counter[str]:
        return Counter(labels)

    @staticmethod
    def unknown(facts: Mapping[str, Any]) -> set[str]:
        return _unknown_names(facts)

    @staticmethod
    def survey(
        options: ClassificationOptions, counted: Counted, path: Path | None, *, are_sound: bool
    ) -> dict[str, Any]:
        facts = _survey_names(options, counted)
        if len(facts["label_counts"]["train"]) == 1 and are_sound:
            # Reported first, because every other label in dev would be reported as unknown too.
            (only,) = facts["label_counts"]["train"]
            raise DataError(f"{path}: every row has the label {only!r}; a classifier needs at least two")
        unknown = set(options.class_weights if isinstance(options.class_weights, dict) else ()) - {
            *facts["label_names"]
        }
        if unknown:
            names = ", ".join(map(repr, sorted(unknown)))
            raise DataError(f"task.class_weights: unknown label {names}; legal: {_listed(facts['label_names'])}")
        return facts

    def model_config(self) -> dict[str, Any]:
        return {**_names_config(self._names), "problem_type": "single_label_classification"}

    def encode(self, label: str | None) -> int:
        return IGNORED if label is None else self._ids[label]

    def show(self, labels: int) -> str:
        return self._names[labels]

    def num_targets(self, labels: int) -> int:
        return int(labels != IGNORED)

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(
            logits, batch.labels, ignore_index=IGNORED, reduction="none", label_smoothing=self._smoothing
        )
        if self._weights is not None:
            # Not cross_entropy's own weight: with smoothing it would weight the smoothed labels instead of the row.
            losses = losses * logits.new_tensor(self._weights)[batch.labels.clamp(min=0)]
        return losses.sum()

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The confusion matrix: rows are the true labels, columns the predicted ones."""
        found, true = logits.argmax(-1)[batch.targets], batch.labels[batch.targets]
        num_labels = len(self._names)
        cells = (true * num_labels + found).bincount(minlength=num_labels**2)
        return {"confusion": cells.reshape(num_labels, num_labels)}

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """Accuracy, F1 and MCC as in scikit-learn; a label without rows and predictions does not count in the means.

        MCC is the multi-class R_k (Gorodkin, 2004). Micro F1 over all labels equals accuracy.
        """
        confusion = totals["confusion"].double()
        hits, true, found, count = confusion.diag(), confusion.sum(1), confusion.sum(0), confusion.sum()
        f1 = 2 * hits / (true + found).clamp(min=1)
        present = (true + found) > 0
        spread = ((count**2 - (found**2).sum()) * (count**2 - (true**2).sum())).sqrt()
        covariance = hits.sum() * count - (found * true).sum()
        return {
            "accuracy": float(hits.sum() / count),
            "f1_macro": float(f1[present].mean()),
            "f1_micro": float(2 * hits.sum() / (true + found).sum()),
            "mcc": float(covariance / spread) if spread > 0 else 0.0,
            "confusion": confusion.long().tolist(),
        }

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely label, its probability, and the probabilities of all labels."""
        return [
            {
                "label": self._names[int(row.argmax())],
                "score": round(float(row.max()), 6),
                "scores": _by_name(self._names, row),
            }
            for row in logits.softmax(-1)
        ]


class MultiLabel(Problem):
    """Any number of names. Binary cross entropy; each row has one target per label: whether it has that label."""

    main_metric = "f1_micro"

    def __init__(self, options: ClassificationOptions, facts: Mapping[str, Any]) -> None:
        self._names: list[str] = facts["label_names"]
        self._fallback = options.threshold
        self._thresholds: list[float] | None = (
            None if options.tune_thresholds else [options.threshold] * len(self._names)
        )

    @staticmethod
    def parse(label: Any, options: ClassificationOptions) -> Written:
        """The labels as they are written; label_lists.py has the ways. A blank text has no labels."""
        return read_written(label, options.label_separator)

    @classmethod
    def read(cls, label: Any, options: ClassificationOptions, facts: Mapping[str, Any]) -> list[str]:
        return names_in(label, facts)

    @staticmethod
    def count(labels: Sequence[Written]) -> LabelForms:
        forms = LabelForms()
        for written in labels:
            forms.add(written)
        return forms

    @staticmethod
    def unknown(facts: Mapping[str, Any]) -> set[str]:
        misfits = {"(of another length)"} if facts["label_form"].get("have_misfits") else set()
        return _unknown_names(facts) | misfits

    @staticmethod
    def survey(
        options: ClassificationOptions, counted: Counted, path: Path | None, *, are_sound: bool
    ) -> dict[str, Any]:
        by_split = {split: merged(pieces) for split, pieces in counted.items()}
        facts = settle(by_split, options.label_names, options.label_separator, path)
        if options.tune_thresholds and "dev" not in counted:
            raise DataError("task.tune_thresholds: needs a dev split; set data.dev, or set this to false")
        if (num_names := len(facts["label_names"])) < 2 and are_sound:
            raise DataError(f"{path}: the number of labels in the rows is {num_names}; a classifier needs at least two")
        return facts

    def model_config(self) -> dict[str, Any]:
        return {**_names_config(self._names), "problem_type": "multi_label_classification"}

    def encode(self, label: list[str] | None) -> list[int]:
        return [IGNORED if label is None else int(name in label) for name in self._names]

    def show(self, labels: list[int]) -> str:
        return ", ".join(name for name, label in zip(self._names, labels, strict=True) if label == 1) or "(none)"

    def num_targets(self, labels: list[int]) -> int:
        return sum(label != IGNORED for label in labels)

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        targets = batch.targets
        return binary_cross_entropy_with_logits(logits[targets], batch.labels[targets].float(), reduction="sum")

    def score(self, logits: Tensor, batch: Batch) -> Scores:
        """Counts at the thresholds; all probabilities and labels if the thresholds are still to be tuned."""
        known = batch.targets.all(-1)
        probabilities, true = logits.sigmoid()[known], batch.labels[known] == 1
        if self._thresholds is None:
            return {"probabilities": PerExample(probabilities), "true": PerExample(true)}
        return self._counts(probabilities, true, self._thresholds)

    @staticmethod
    def _counts(probabilities: Tensor, true: Tensor, thresholds: Sequence[float]) -> dict[str, Tensor]:
        """True and false positives and false negatives per label; the rows, the right rows, and the sum of their F1."""
        # In float64, because in float32 the threshold between two neighbors would equal one of them.
        found = probabilities.double() >= probabilities.double().new_tensor(thresholds)
        hits, either = (found & true).sum(1), found.sum(1) + true.sum(1)
        return {
            "tp": (found & true).sum(0),
            "fp": (found & ~true).sum(0),
            "fn": (~found & true).sum(0),
            "rows": hits.new_tensor(len(true)),
            "rows_right": (found == true).all(1).sum(),
            "f1_of_rows": (2 * hits.double() / either.clamp(min=1)).sum(),
        }

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """As in scikit-learn with zero_division=0: a label or row without true or predicted labels has F1 0."""
        if self._thresholds is None:
            probabilities, true = totals["probabilities"], totals["true"]
            tuned = [
                best_threshold(column, is_true, fallback=self._fallback)
                for column, is_true in zip(probabilities.T, true.T, strict=True)
            ]
            metrics = self._metrics(self._counts(probabilities, true, tuned))
            return {**metrics, "thresholds": dict(zip(self._names, tuned, strict=True))}
        return self._metrics(totals)

    def _metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        tp, fp, fn = (totals[name].double() for name in ("tp", "fp", "fn"))
        f1 = 2 * tp / (2 * tp + fp + fn).clamp(min=1)
        cells = zip(self._names, tp.tolist(), fp.tolist(), fn.tolist(), f1.tolist(), strict=True)
        return {
            "f1_micro": float(2 * tp.sum() / (2 * tp + fp + fn).sum().clamp(min=1)),
            "f1_macro": float(f1.mean()),
            "f1_samples": float(totals["f1_of_rows"] / totals["rows"]),
            "subset_accuracy": float(totals["rows_right"] / totals["rows"]),
            "per_label": {
                name: {"tp": int(tp_), "fp": int(fp_), "fn": int(fn_), "f1": f1_} for name, tp_, fp_, fn_, f1_ in cells
            },
        }

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        if "thresholds" in dev_metrics:
            self._thresholds = [dev_metrics["thresholds"][name] for name in self._names]

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """The labels at or above their thresholds, and the probabilities of all labels."""
        thresholds = logits.double().new_tensor(self._thresholds or [self._fallback] * len(self._names))
        return [
            {
                "label": [self._names[at] for at in (row >= thresholds).nonzero().flatten().tolist()],
                "scores": _by_name(self._names, row),
            }
            for row in logits.sigmoid()
        ]


class Regression(Problem):
    """A number. Squared error, one target per row; MSE, MAE and the correlations of Pearson and Spearman."""

    main_metric = "mse"

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
        return ((logits[:, 0][batch.targets] - batch.labels[batch.targets]) ** 2).sum()

    def score(self, logits: Tensor, batch: Batch) -> Scores:
        """Sums in float64, centered on the mean of the training labels, so that labels far from zero lose no digits."""
        found = logits[:, 0][batch.targets].double() - self._mean
        true = batch.labels[batch.targets].double() - self._mean
        return {
            "rows": batch.targets.sum(),
            "errors": (found - true).abs().sum(),
            "squared_errors": ((found - true) ** 2).sum(),
            "found": found.sum(),
            "true": true.sum(),
            "found_found": (found * found).sum(),
            "true_true": (true * true).sum(),
            "found_true": (found * true).sum(),
            "every_found": PerExample(found),
            "every_true": PerExample(true),
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


def best_threshold(probabilities: Tensor, true: Tensor, *, fallback: float) -> float:
    """The threshold with the best F1, halfway between two of the probabilities; both tensors have shape (rows,).

    The highest of equally good thresholds; `fallback` if no row is true.
    """
    if not true.any():
        return fallback
    falling, order = probabilities.double().sort(descending=True, stable=True)
    hits = true[order].cumsum(0).double()
    f1 = 2 * hits / (falling.new_tensor(range(1, len(falling) + 1)) + hits[-1])
    below = falling.roll(-1)
    below[-1] = 0.0
    f1[:-1][falling[:-1] == below[:-1]] = -1.0  # no threshold separates equal values
    at = int(f1.argmax())
    return float((falling[at] + below[at]) / 2)


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


PROBLEMS: dict[str, type[Problem]] = {
    "single_label": SingleLabel,
    "multi_label": MultiLabel,
    "regression": Regression,
}

_LARGEST = 3.4028234e38
"""The largest float32."""


def _survey_names(options: ClassificationOptions, counted: Counted) -> dict[str, Any]:
    """The label names in the order of their ids, and how often each occurs in each split."""
    counts = {split: dict(sum(pieces, Counter[str]())) for split, pieces in counted.items()}
    return {"label_names": list(options.label_names or sorted(counts["train"])), "label_counts": counts}


def _unknown_names(facts: Mapping[str, Any]) -> set[str]:
    return {name for counts in facts["label_counts"].values() for name in counts} - {*facts["label_names"]}


def _listed(names: Sequence[str], most: int = 20) -> str:
    return ", ".join(names[:most])


def _class_weights(options: ClassificationOptions, facts: Mapping[str, Any]) -> list[float] | None:
    """The weight of each label, by id, scaled to a mean of 1 over the training rows; None if all are equal."""
    if options.class_weights == "none":
        return None
    counts: Mapping[str, int] = facts["label_counts"]["train"]
    if options.class_weights == "balanced":
        weights = {name: 1 / count for name, count in counts.items()}
    else:
        weights = {name: options.class_weights.get(name, 1.0) for name in facts["label_names"]}
    mean = sum(weights[name] * count for name, count in counts.items()) / sum(counts.values())
    # A label without training rows still occurs in evaluations: it gets the mean weight.
    return [weights.get(name, mean) / mean for name in facts["label_names"]]


def _names_config(names: Sequence[str]) -> dict[str, Any]:
    ids = {name: number for number, name in enumerate(names)}
    return {"num_labels": len(names), "id2label": dict(enumerate(names)), "label2id": ids}


def _spread(rows: float, total: float, squares: float) -> float:
    """The variance times rows², or 0 if it is within the rounding error of equal numbers."""
    spread = rows * squares - total**2
    return spread if spread > 1e-12 * rows * squares else 0.0


def _by_name(names: Sequence[str], scores: Tensor) -> dict[str, float]:
    return {name: round(score, 6) for name, score in zip(names, scores.tolist(), strict=True)}
