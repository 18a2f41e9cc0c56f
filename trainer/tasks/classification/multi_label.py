"""Any number of names for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.trainer.tasks.classification.label_lists import (
    LabelForms,
    Written,
    merged,
    names_in,
    read_written,
    settle,
)
from shardtune.trainer.tasks.classification.label_names import by_name, names_config, unknown_names
from shardtune.trainer.tasks.classification.problem import Counted, Problem
from shardtune.trainer.tasks.example import IGNORED
from shardtune.trainer.tasks.task import PerExample, Scores

if TYPE_CHECKING:
    from torch import Tensor

    from shardtune.recipe.tasks.classification import ClassificationOptions
    from shardtune.trainer.tasks.batch import Batch


class MultiLabel(Problem):
    """Any number of names. Binary cross entropy; each row has one target per label: whether it has that label."""

    main_metric = "f1_micro"
    counted = (LabelForms,)

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
        return unknown_names(facts) | misfits

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
        return {**names_config(self._names), "problem_type": "multi_label_classification"}

    def encode(self, label: list[str] | None) -> list[int]:
        return [IGNORED if label is None else int(name in label) for name in self._names]

    def show(self, labels: list[int]) -> str:
        return ", ".join(name for name, label in zip(self._names, labels, strict=True) if label == 1) or "(none)"

    def num_targets(self, labels: list[int]) -> int:
        return sum(label != IGNORED for label in labels)

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        labels = batch.of_targets(batch.labels).float()
        return binary_cross_entropy_with_logits(batch.of_targets(logits), labels, reduction="sum")

    def loss_of_rows(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import binary_cross_entropy_with_logits

        losses = binary_cross_entropy_with_logits(logits, (batch.labels == 1).float(), reduction="none")
        return (losses * batch.targets).sum(1)

    def score(self, logits: Tensor, batch: Batch) -> Scores:
        """Counts at the thresholds; all probabilities and labels if the thresholds are still to be tuned."""
        # A row has all labels or none.
        shape = (-1, len(self._names))
        probabilities = batch.of_targets(logits.sigmoid()).view(shape)
        true = batch.of_targets(batch.labels).view(shape) == 1
        if self._thresholds is None:
            return {"probabilities": PerExample(probabilities), "true": PerExample(true)}
        return self._counts(probabilities, true, self._thresholds)

    @property
    def proportions(self) -> frozenset[str]:
        return frozenset({"subset_accuracy"})

    def score_rows(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The probabilities, and which labels are true; shape (rows, labels)."""
        return {"probabilities": logits.sigmoid(), "true": batch.labels == 1}

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        repeated = {name: score.repeat_interleave(times, 0) for name, score in scores.items()}
        return repeated if self._thresholds is None else self._counts(**repeated, thresholds=self._thresholds)

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
            "rows": hits.new_full((), len(true)),
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
            "subset_accuracy": float(totals["rows_right"].double() / totals["rows"]),
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
                "scores": by_name(self._names, row),
            }
            for row in logits.sigmoid()
        ]


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
