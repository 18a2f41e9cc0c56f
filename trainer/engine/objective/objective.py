"""What a step minimizes, a micro-batch at a time: a sum over targets, which the loop divides once by their number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

from torch import Tensor

from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.engine.objective.reference import Reference
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch

KL_TO_BASE = "kl_to_base"


class Objective(Protocol):
    """The sum that is trained, and the sums that are reported."""

    @property
    def terms(self) -> Sequence[str]:
        """The names of the reported sums; the first is the task's loss."""

    def sums(self, engine: Inference, batch: Batch) -> tuple[Tensor, Tensor]:
        """Collective: over the batch's targets, what is trained, a scalar, and the terms, of shape (terms,) and without
        gradients; both in float32."""


@dataclass(frozen=True)
class TaskLoss:
    """The loss of the task alone."""

    task: Task
    terms: ClassVar[Sequence[str]] = ("loss",)

    def sums(self, engine: Inference, batch: Batch) -> tuple[Tensor, Tensor]:
        loss_sum = self.task.loss_sum(engine.forward(batch), batch)
        return loss_sum, loss_sum.detach()[None]


@dataclass(frozen=True)
class KlToBase:
    """The loss of the task, and `weight` times KL(pretrained || model)."""

    task: Task
    reference: Reference
    weight: float
    terms: ClassVar[Sequence[str]] = ("loss", KL_TO_BASE)

    def sums(self, engine: Inference, batch: Batch) -> tuple[Tensor, Tensor]:
        base = replace(self.reference.targets(batch), share=self.weight)
        output = engine.forward(batch.with_base(base))
        return self.task.loss_sum(output, batch), output.logits[2:]  # as trainer/model/target_loss.py has them
