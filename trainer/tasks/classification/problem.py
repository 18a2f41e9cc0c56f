"""What a classification problem decides: what a label is, its loss and its counts.

It sees logits and labels only; the texts are the same for all problems.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from shardtune.trainer.tasks.task import Scores, summed

if TYPE_CHECKING:
    from torch import Tensor

    from shardtune.recipe.tasks.classification import ClassificationOptions
    from shardtune.trainer.tasks.batch import Batch

Counted = Mapping[str, Sequence[Any]]
"""The results of `count` for the rows of each split, one per piece."""


class Problem(ABC):
    """A way to label a text. By default, all labels are legal and nothing is calibrated on dev."""

    main_metric: ClassVar[str]
    counted: ClassVar[tuple[type, ...]] = ()
    """The classes of what `count` returns, besides those of Python."""

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

    @property
    def proportions(self) -> frozenset[str]:
        """See Task."""
        return frozenset()

    @abstractmethod
    def loss_of_rows(self, logits: Tensor, batch: Batch) -> Tensor:
        """The loss summed over the targets of each row; see Task."""

    @abstractmethod
    def score_rows(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """What is counted in each row; see Task."""

    def totals(self, scores: Mapping[str, Tensor], times: Tensor) -> dict[str, Tensor]:
        """The counts of rows, each counted as often as `times` says; see Task."""
        return summed(scores, times)

    @abstractmethod
    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The metrics of the summed counts."""

    def calibrate(self, dev_metrics: Mapping[str, Any]) -> None:
        """Takes what later answers need from the dev metrics."""
        return

    @abstractmethod
    def predictions(self, logits: Tensor) -> list[dict[str, Any]]:
        """One prediction per row; `label` is what the column `label` would hold."""
