"""Speed, memory and loss: averages over the steps since the last report."""

import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.engine.engine import StepStats
from shardtune.trainer.reporting.compute_rate import ComputeRate

NO_TERMS: Mapping[str, float] = MappingProxyType({})


@dataclass
class _Window:
    started: float
    num_steps: int = 0
    num_samples: int = 0
    num_tokens: int = 0
    num_padded_tokens: int = 0
    num_targets: float = 0
    loss_sum: float = 0.0
    term_sums: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    waited_s: float = 0.0
    compute_s: float = 0.0
    flops: float = 0.0


class Meter:
    """Adds up the numbers of steps and turns them into one line of metrics."""

    def __init__(self, num_steps: int, compute_rate: ComputeRate) -> None:
        self._num_steps = num_steps
        self._compute_rate = compute_rate
        self._window = _Window(time.monotonic())
        self._step_s: float | None = None
        self._is_paused = False

    def add(self, step: Step, stats: StepStats, loss: float, terms: Mapping[str, float] = NO_TERMS) -> None:
        """Adds one finished step; `loss` and the other terms of the objective are means over its targets."""
        self._last_step, self._last_stats = step, stats
        window = self._window
        window.num_steps += 1
        window.num_samples += step.num_samples
        window.num_tokens += step.num_tokens
        window.num_padded_tokens += step.num_padded_tokens
        if math.isfinite(loss):  # a single nan would make the loss of the whole window nan
            window.num_targets += step.num_targets
            window.loss_sum += loss * step.num_targets
            window.term_sums.update({name: value * step.num_targets for name, value in terms.items()})
        window.skipped += not stats.applied
        window.waited_s += step.waited_s
        window.compute_s += stats.compute_s
        window.flops += self._compute_rate.flops(step)

    @property
    def num_steps(self) -> int:
        """Number of steps since the last report."""
        return self._window.num_steps

    @property
    def compute_s(self) -> float:
        """Seconds of computing per step of this rank since the last report."""
        return self._window.compute_s / self._window.num_steps

    def report(self) -> dict[str, Any]:
        """Returns the metrics of the steps since the last report, of all ranks together; starts a new window.

        loss and other terms are means over all targets of the window, without steps whose loss is non-finite; rates are
        per second of wall time, tokens_per_s without padding; tflops_per_s and mfu are those of ComputeRate;
        data_wait_s is the part of step_time_s in which this rank waited for its batches; eta_s counts training steps
        only.
        """
        window, elapsed = self._window, max(time.monotonic() - self._window.started, 1e-9)
        # Smoothed over about ten reports, so that the estimate does not jump with every batch of long rows.
        step_s = elapsed / window.num_steps
        self._step_s = step_s if self._step_s is None else 0.9 * self._step_s + 0.1 * step_s
        self._window = _Window(time.monotonic())
        return {
            "loss": window.loss_sum / window.num_targets if window.num_targets else math.nan,
            **{name: total / window.num_targets for name, total in window.term_sums.items()},
            "lr": self._last_stats.lr,
            "grad_norm": self._last_stats.grad_norm,
            "tokens_per_s": window.num_tokens / elapsed,
            "samples_per_s": window.num_samples / elapsed,
            **self._compute_rate.metrics(window.flops, elapsed),
            "padding_efficiency": window.num_tokens / (window.num_padded_tokens or 1),
            "step_time_s": step_s,
            "data_wait_s": window.waited_s / window.num_steps,
            "eta_s": (self._num_steps - self._last_step.number - 1) * self._step_s,
            "skipped_steps": window.skipped,
        }

    @property
    def penalty(self) -> float | None:
        """This rank's part of the penalty at the last step (StepStats.penalty). Waits for a GPU."""
        penalty = self._last_stats.penalty
        return None if penalty is None else float(penalty)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Does not count the time spent inside (an evaluation, a checkpoint) as training time; may be nested."""
        outer, self._is_paused = self._is_paused, True
        began = time.monotonic()
        try:
            yield
        finally:
            self._is_paused = outer
            if not outer:
                self._window.started += time.monotonic() - began
