"""Where a training stands: all that a checkpoint keeps besides the engine's tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.steps import Step


@dataclass(frozen=True)
class TrainState:
    """Everything else (epoch, learning rate, order of the data, random numbers) follows from the step."""

    step: int = 0
    """Optimizer steps done; also the number of the next one."""
    samples_seen: int = 0
    tokens_seen: int = 0
    targets_seen: float = 0
    best_step: int | None = None
    best_value: float | None = None
    """Of the metric that chooses the best model."""
    dev_at_start: Mapping[str, Any] | None = None
    """The dev metrics before the first step, if they were asked for."""

    def after(self, step: "Step") -> "TrainState":
        """The state with this step done."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + step.num_samples,
            tokens_seen=self.tokens_seen + step.num_tokens,
            targets_seen=self.targets_seen + step.num_targets,
        )
