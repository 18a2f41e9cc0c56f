"""What counts as a bad step: a non-finite loss or gradient, or a loss that jumps."""

import math
from collections.abc import Sequence
from statistics import median

from shardtune.trainer.engine.engine import StepStats

WINDOW = 64
"""Number of recent losses that a jump is measured against."""
FEWEST = 16
"""With fewer losses than this, nothing is a spike: a training begins with falling losses."""
LEAST_RATIO = 1.5
"""Where a loss hardly varies, a jump of many deviations may still be small."""


def is_bad(loss: float, stats: StepStats, precision: str) -> bool:
    """Whether the loss or the gradient of a step is non-finite."""
    # In fp16 a gradient overflows every now and then, by design: the loss scale goes down, and up again later.
    return not math.isfinite(loss) or (not stats.applied and precision != "fp16")


def spike_limit(recent: Sequence[float], deviations: float | None) -> float:
    """The loss above which the next step counts as a spike; infinity if none does."""
    if deviations is None or len(recent) < FEWEST:
        return math.inf
    middle = median(recent)
    deviation = 1.4826 * median(abs(loss - middle) for loss in recent)  # a normal distribution's standard deviation
    return max(middle + deviations * deviation, LEAST_RATIO * middle)


def with_loss(recent: Sequence[float], loss: float) -> tuple[float, ...]:
    """The window with one more loss; spikes are included, so that a lasting change soon becomes the new level."""
    return (*recent, loss)[-WINDOW:]
