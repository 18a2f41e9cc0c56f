"""Where a training stands: all that a checkpoint keeps besides the engine's tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardtune.trainer.data.batches.steps import Step


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
    recent_losses: Sequence[float] = ()
    """Of the last steps whose loss was a finite number: what a spike is measured by
    (trainer/between_steps/guard/spikes.py)."""
    bad_in_a_row: int = 0
    """How many steps up to here have changed nothing, since their numbers were none."""
    left_out: Sequence[int] = ()
    """The numbers of the steps whose batches are not trained on, since they made the loss jump once."""

    def after(self, step: "Step") -> "TrainState":
        """The state with this step done."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + step.num_samples,
            tokens_seen=self.tokens_seen + step.num_tokens,
            targets_seen=self.targets_seen + step.num_targets,
        )
