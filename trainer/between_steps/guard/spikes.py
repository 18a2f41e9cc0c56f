"""Which steps are not to be trusted: those whose numbers are none, and those whose loss jumps."""

import math
from collections.abc import Sequence
from statistics import median

from shardtune.trainer.engine.engine import StepStats

WINDOW = 64
"""Losses that a jump is measured by."""
FEWEST = 16
"""As long as fewer are known, nothing is a spike: a training begins with falling losses."""
LEAST_RATIO = 1.5
"""Where a loss hardly varies, a jump of many deviations may still be small."""


def is_bad(loss: float, stats: StepStats, precision: str) -> bool:
    """Whether a step's loss or gradient was no finite number."""
    # In fp16 a gradient overflows every now and then, by design: the loss scale goes down, and up again later.
    return not math.isfinite(loss) or (not stats.applied and precision != "fp16")


def spike_limit(recent: Sequence[float], deviations: float | None) -> float:
    """The loss above which the next step's counts as a spike."""
    if deviations is None or len(recent) < FEWEST:
        return math.inf
    middle = median(recent)
    deviation = 1.4826 * median(abs(loss - middle) for loss in recent)  # a normal distribution's standard deviation
    return max(middle + deviations * deviation, LEAST_RATIO * middle)


def with_loss(recent: Sequence[float], loss: float) -> tuple[float, ...]:
    """The window with one more loss; a spike too, so that a lasting change is soon the measure itself."""
    return (*recent, loss)[-WINDOW:]
