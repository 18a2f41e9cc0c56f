"""How far predictions are from published figures, and how far they may be."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Relative errors without their signs."""

    num: int
    median: float
    ninetieth: float
    """The error that nine tenths of the rows do not exceed."""
    largest: float


@dataclass(frozen=True)
class Bound:
    """The largest errors that are accepted."""

    median: float
    ninetieth: float
    largest: float = float("inf")

    def holds(self, score: Score) -> bool:
        return score.median <= self.median and score.ninetieth <= self.ninetieth and score.largest <= self.largest


BOUNDS: Mapping[str, Bound] = {
    "throughput, fitted": Bound(0.12, 0.30),
    "throughput, held out": Bound(0.12, 0.30),
    "memory, measured": Bound(0.12, 0.30, 0.30),
    "memory, ZeRO paper": Bound(0.01, 0.02, 0.02),
    "speed of other trainers": Bound(0.20, 0.35),
}


def score_of(errors: Sequence[float]) -> Score:
    """The score of these relative errors."""
    sizes = sorted(map(abs, errors))
    return Score(len(sizes), statistics.median(sizes), sizes[-(len(sizes) // 10) - 1], sizes[-1])
