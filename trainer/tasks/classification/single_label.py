"""One of several names for each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shardtune.errors import DataError
from shardtune.trainer.tasks.classification.calibration import (
    calibration_metrics,
    confidence_of,
    count_bins,
    losses_by_temperature,
)
from shardtune.trainer.tasks.classification.label_lists import name_of, read_written
from shardtune.trainer.tasks.classification.label_names import by_name, names_config, unknown_names
from shardtune.trainer.tasks.classification.problem import Counted, Problem
from shardtune.trainer.tasks.example import IGNORED

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from shardtune.recipe.tasks.classification import ClassificationOptions
    from shardtune.trainer.tasks.batch import Batch


class SingleLabel(Problem):
    """One of several names. Cross entropy, one target per row; accuracy, F1, MCC, the confusion matrix, calibration."""

    main_metric = "accuracy"

    def __init__(self, options: ClassificationOptions, facts: Mapping[str, Any]) -> None:
        self._names: list[str] = facts["label_names"]
        self._ids = {name: number for number, name in enumerate(self._names)}
        self._smoothing = options.label_smoothing
        self._weights = _class_weights(options, facts)
        self._temperature: float | None = None
        """By which the logits are divided for probabilities that are right on dev; None until that is known."""
        self._weights_by_device: dict[torch.device, Tensor] = {}

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
        return unknown_names(facts)

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
        return {**names_config(self._names), "problem_type": "single_label_classification"}

    def encode(self, label: str | None) -> int:
        return IGNORED if label is None else self._ids[label]

    def show(self, labels: int) -> str:
        return self._names[labels]

    def num_targets(self, labels: int) -> int:
        return int(labels != IGNORED)

    def loss_sum(self, logits: Tensor, batch: Batch) -> Tensor:
        return self.loss_of_rows(logits, batch).sum()

    def loss_of_rows(self, logits: Tensor, batch: Batch) -> Tensor:
        from torch.nn.functional import cross_entropy

        losses = cross_entropy(
            logits, batch.labels, ignore_index=IGNORED, reduction="none", label_smoothing=self._smoothing
        )
        if self._weights is not None:
            # Not cross_entropy's own weight: with smoothing it would weight the smoothed labels instead of the row.
            losses = losses * self._weights_on(logits.device)[batch.labels.clamp(min=0)]
        return losses

    def _weights_on(self, device: torch.device) -> Tensor:
        """The labels' weights, copied to a device once: each copy to a GPU would wait for it."""
        import torch

        if device not in self._weights_by_device:
            self._weights_by_device[device] = torch.tensor(self._weights, device=device)
        return self._weights_by_device[device]

    def score(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The confusion matrix: rows are the true labels, columns the predicted ones."""
        logits, true = batch.of_targets(logits), batch.of_targets(batch.labels)
        totals = self.totals(self._scores(logits, true), true.new_ones(len(true)))
        if self._temperature is None:
            totals["losses_by_temperature"] = losses_by_temperature(logits, true)
        return totals

    def _scores(self, logits: Tensor, true: Tensor) -> dict[str, Tensor]:
        scores = {"true": true, "found": logits.argmax(-1), "confidence": confidence_of(logits)}
        if self._temperature is not None:
            scores["confidence_scaled"] = confidence_of(logits, self._temperature)
        return scores

    def _confusion(self, true: Tensor, found: Tensor, times: Tensor) -> Tensor:
        num_labels = len(self._names)
        # Not bincount, which waits for the largest number.
        confusion = times.new_zeros(num_labels**2).index_add_(0, true * num_labels + found, times)
        return confusion.reshape(num_labels, num_labels)

    @property
    def proportions(self) -> frozenset[str]:
        return frozenset({"accuracy", "f1_micro"})

    def score_rows(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The true and the predicted label of each row, and the probability of the latter."""
        return self._scores(logits, batch.labels)

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        true, found = scores["true"], scores["found"]
        totals = {"confusion": self._confusion(true, found, times)}
        for name, confidence in scores.items():
            if name.startswith("confidence"):
                totals[name.replace("confidence", "bins")] = count_bins(confidence, true == found, times)
        return totals

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
            **calibration_metrics(totals, self._temperature),
            "confusion": confusion.long().tolist(),
        }

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        if "calibration" in dev_metrics:
            self._temperature = dev_metrics["calibration"]["temperature"]

    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """The most likely label, its probability, and the probabilities of all labels."""
        return [
            {
                "label": self._names[int(row.argmax())],
                "score": round(float(row.max()), 6),
                "scores": by_name(self._names, row),
            }
            for row in logits.softmax(-1)
        ]


def _survey_names(options: ClassificationOptions, counted: Counted) -> dict[str, Any]:
    """The label names in the order of their ids, and how often each occurs in each split."""
    counts = {split: dict(sum(pieces, Counter[str]())) for split, pieces in counted.items()}
    return {"label_names": list(options.label_names or sorted(counts["train"])), "label_counts": counts}


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
