"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

import math
from collections.abc import Callable

from shardtune.recipe.sections.optim import OptimConfig

Schedule = Callable[[int], float]
"""Optimizer step, counted from 0 -> learning rate."""


def make_schedule(optim: OptimConfig, num_steps: int) -> Schedule:
    """Linear warm-up to optim.lr, then optim.schedule down to optim.min_lr_ratio * optim.lr.

    Step `warmup` runs at the peak. The learning rate would reach 0 one step before the first and one step after the
    last, so that no step is spent on a learning rate of 0.
    """
    warmup = num_warmup_steps(optim, num_steps)
    shape = SCHEDULES[optim.schedule]

    def lr(step: int) -> float:
        if step < warmup:
            return optim.lr * (step + 1) / (warmup + 1)
        done = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        stable = max(0.0, 1 - optim.decay_fraction * num_steps / max(1, num_steps - warmup))
        return optim.lr * (optim.min_lr_ratio + (1 - optim.min_lr_ratio) * shape(done, stable))

    return lr


def num_warmup_steps(optim: OptimConfig, num_steps: int) -> int:
    """The steps of the warm-up, which may be more than there are."""
    if optim.warmup_steps is not None:
        return optim.warmup_steps
    return math.ceil((optim.warmup_fraction or 0.0) * num_steps)


def _wsd(done: float, stable: float) -> float:
    """Warm-up, stable, decay (Hu et al., 2024, MiniCPM), with a linear decay."""
    return 1.0 if done <= stable else (1 - done) / (1 - stable)


SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda done, _: 1 - done,
    "cosine": lambda done, _: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done, _: 1.0,
    "wsd": _wsd,
}
"""Schedule -> height (1 to 0) at the fraction `done` of the steps after the warm-up; wsd decays from `stable` on."""
