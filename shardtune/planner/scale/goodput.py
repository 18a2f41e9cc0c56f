"""The part of a job's time that trains, given failures, and the checkpoint interval that makes it largest.

Machines fail independently, each at a constant rate, so a job on n nodes fails n times as often as a node. All times
are seconds.

With M the mean time between failures, C the time for which training waits for a checkpoint, W the time until it is on
disk, T the time of training between two checkpoints and X the mean time from a failure until training goes on:

    goodput = T exp(-W/M) / (exp((T + C)/M) - 1) / (X + M)

A cycle lasts X + M on average and secures the k-th interval if it lives for k (T + C) + W after its restart, which has
the probability exp(-(k (T + C) + W)/M); these add up to the fraction. For W = 0 and one kind of restart this is the
exact formula of Daly (2006, "A higher order estimate of the optimum checkpoint interval for restart dumps", eq. 20).
The best T follows from it by the Lambert function W0: T = M (1 + W0(-exp(-C/M - 1))); it depends neither on X nor on W.
Young's (1974) is its first order: T = sqrt(2 C M).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Restart:
    """A kind of failure, by what follows it."""

    share: float
    """The part of all failures that are of this kind; the shares of all kinds sum to 1."""
    seconds: float
    """From the failure until training goes on: noticing it, waiting in the queue, starting, loading."""


@dataclass(frozen=True)
class Saving:
    """What a checkpoint costs."""

    stall_s: float
    """Training waits for it this long."""
    write_s: float = 0.0
    """From the end of the stall until it is on disk; a failure before that resumes from the one before."""


def job_mtbf(node_mtbf_s: float, num_nodes: int) -> float:
    """Mean time between failures of a job on all these nodes, in seconds."""
    return node_mtbf_s / num_nodes


def mean_restart(restarts: Sequence[Restart], mtbf_s: float) -> float:
    """Mean seconds from a failure until training goes on, with the failures that come meanwhile.

    Each of those begins a restart of any kind anew: x = sum of share (M (1 - exp(-R/M)) + x (1 - exp(-R/M))).
    """
    interrupted = sum(restart.share * -math.expm1(-restart.seconds / mtbf_s) for restart in restarts)
    return mtbf_s * interrupted / (1 - interrupted)


def goodput(interval_s: float, saving: Saving, restarts: Sequence[Restart], mtbf_s: float) -> float:
    """The part of the time that trains and is not lost, with a checkpoint every interval_s of training."""
    attempts = math.expm1((interval_s + saving.stall_s) / mtbf_s)
    secured = interval_s * math.exp(-saving.write_s / mtbf_s) / attempts
    return secured / (mean_restart(restarts, mtbf_s) + mtbf_s)


def best_interval(saving: Saving, mtbf_s: float) -> float:
    """Seconds of training between two checkpoints for the largest goodput; at least the time that one takes to write,
    because one is written at a time."""
    best = mtbf_s * (1 + _lambert(-math.exp(-saving.stall_s / mtbf_s - 1)))
    return max(best, saving.write_s)


def young_interval(stall_s: float, mtbf_s: float) -> float:
    """Young's first-order estimate of the best interval: sqrt(2 C M)."""
    return math.sqrt(2 * stall_s * mtbf_s)


def daly_interval(stall_s: float, mtbf_s: float) -> float:
    """Daly's higher-order estimate of the best interval (2006, eq. 37)."""
    if stall_s >= 2 * mtbf_s:
        return mtbf_s
    part = stall_s / (2 * mtbf_s)
    return math.sqrt(2 * stall_s * mtbf_s) * (1 + math.sqrt(part) / 3 + part / 9) - stall_s


def _lambert(argument: float) -> float:
    """The principal branch of w exp(w) = argument, for arguments from -1/e to 0.

    Halley's iteration, begun with the first terms of the series at -1/e (Corless et al., 1996, "On the Lambert W
    function", eq. 4.22).
    """
    root = math.sqrt(max(0.0, 2 * (math.e * argument + 1)))
    value = -1 + root - root**2 / 3
    for _ in range(50):
        if value <= -1:
            return -1.0
        error = value * math.exp(value) - argument
        slope = math.exp(value) * (value + 1)
        step = error / (slope - (value + 2) * error / (2 * value + 2))
        value -= step
        if abs(step) < 1e-14:
            break
    return value
