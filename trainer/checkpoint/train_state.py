"""The state of a training, without the engine's tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shardtune.trainer.data.batches.steps import Step


@dataclass(frozen=True)
class TrainState:
    """What a checkpoint keeps besides tensors.

    Everything else (epoch, learning rate, order of the data, random numbers) follows from the step.
    """

    step: int = 0
    """Optimizer steps done, which is also the number of the next step, counted from 0."""
    samples_seen: int = 0
    tokens_seen: int = 0
    targets_seen: float = 0
    best_step: int | None = None
    best_value: float | None = None
    """The value at best_step of the metric that chooses the best model."""
    best_excess: float = 0.0
    """By how much the best model exceeds retention.max_drop; 0 if it is within it."""
    value_to_beat: float | None = None
    """The value of that metric which an evaluation has to beat by train.min_delta to count as better."""
    without_gain: int = 0
    """How many of the last evaluations in a row were not better."""
    dev_at_start: Mapping[str, Any] | None = None
    """The dev metrics before the first step, if that evaluation is configured."""
    retention_at_start: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For each retention set, before the first step, its `metrics`, and the fingerprint of its `rows`."""
    is_beyond_retention: bool = False
    """Whether an evaluation has exceeded retention.max_drop."""
    recent_losses: Sequence[float] = ()
    """The last finite losses, by which a spike is measured (trainer/between_steps/guard/spikes.py)."""
    bad_in_a_row: int = 0
    """How many of the last steps in a row were skipped because of a non-finite loss or gradient."""
    left_out: Sequence[int] = ()
    """The numbers of the steps whose batches are skipped because they made the loss spike once."""

    def after(self, step: "Step") -> "TrainState":
        """The state after this step."""
        return replace(
            self,
            step=self.step + 1,
            samples_seen=self.samples_seen + step.num_samples,
            tokens_seen=self.tokens_seen + step.num_tokens,
            targets_seen=self.targets_seen + step.num_targets,
        )
