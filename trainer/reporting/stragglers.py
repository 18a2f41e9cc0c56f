"""Which rank the others wait for, and how much of everybody's time that takes. Arithmetic on seconds by rank; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

BEHIND = 1.25
"""Who takes so many times as long as the median is behind. Rows of unequal lengths even out far below that within a
window; a GPU that is throttled, or has lost a lane, is far above."""
NUM_WINDOWS = 3
"""So many windows in a row, and it is said."""
WINDOW_S = 10.0
"""The least length of a window: single steps differ by what is in them."""
NUM_SHOWN = 64
"""With more ranks than that, the time of each is left out of metrics.jsonl."""


@dataclass(frozen=True)
class RankLocation:
    """Where a rank is."""

    host: str
    gpu: int | None
    """The index on its machine; None on a CPU."""

    def __str__(self) -> str:
        return self.host if self.gpu is None else f"{self.host}, GPU {self.gpu}"


@dataclass(frozen=True)
class Straggler:
    """Who has been behind for several windows: a rank, or a machine with all of its ranks."""

    name: str
    host: str
    factor: float
    """How many times as long as the median it takes."""
    lost_share: float

    @property
    def title(self) -> str:
        return f"all wait for {self.name}"

    @property
    def text(self) -> str:
        return (
            f"it has computed {self.factor:.2g} times as long as the median for the last {NUM_WINDOWS} intervals, and "
            f"{self.lost_share:.0%} of all ranks' time is lost by waiting for it. Is its GPU hot or shared, its CPU "
            f"busy? shardtune doctor measures it; job.sbatch_options: [--exclude={self.host}] leaves it out"
        )


def lost_share(seconds: Sequence[float], ranks: Sequence[int]) -> float:
    """The part of all ranks' time that is spent waiting for the slowest of these: what the others wait, by all time.

    0 if another one is slower still, for it is that one they wait for. `seconds` is what each rank computes, (ranks,).
    """
    longest = max(seconds[rank] for rank in ranks)
    others = [its for rank, its in enumerate(seconds) if rank not in set(ranks)]
    if not longest or not others or max(others) > longest:
        return 0.0
    return sum(longest - its for its in others) / (longest * len(seconds))


class Pace:
    """Follows what each rank computes from report to report."""

    def __init__(self, places: Sequence[RankLocation]) -> None:
        self._places = places
        self._sums = [0.0] * len(places)
        self._elapsed_s = 0.0
        self._behind: dict[str, int] = {}
        """Name -> for how many windows in a row."""

    def numbers(self, seconds: Sequence[float]) -> dict[str, Any]:
        """What a line of metrics.jsonl says of an interval: seconds by rank, and who is slowest; nothing of one rank
        alone."""
        if len(seconds) < 2 or not max(seconds):
            return {}
        rank = max(range(len(seconds)), key=seconds.__getitem__)
        shown = {"compute_s": [round(its, 6) for its in seconds]} if len(seconds) <= NUM_SHOWN else {}
        return shown | {
            "slowest_rank": rank,
            "slowest_host": self._places[rank].host,
            "slowest_gpu": self._places[rank].gpu,
            "lost_share": round(lost_share(seconds, [rank]), 6),
        }

    def add(self, seconds: Sequence[float], elapsed_s: float) -> list[Straggler]:
        """Those who have been behind for several windows by now, each said once for as long as it stays behind."""
        self._sums = [sum(its) for its in zip(self._sums, seconds, strict=True)]
        self._elapsed_s += elapsed_s
        if self._elapsed_s < WINDOW_S:
            return []
        sums, self._sums, self._elapsed_s = self._sums, [0.0] * len(self._sums), 0.0
        behind = dict(self._who_is_behind(sums))
        self._behind = {name: self._behind.get(name, 0) + 1 for name in behind}
        return [
            Straggler(name, self._places[ranks[0]].host, factor, lost_share(sums, ranks))
            for name, (ranks, factor) in behind.items()
            if self._behind[name] == NUM_WINDOWS
        ]

    def _who_is_behind(self, seconds: Sequence[float]) -> Iterator[tuple[str, tuple[list[int], float]]]:
        """Name -> its ranks and their factor: of a machine whose ranks are all behind, its own."""
        by_host: dict[str, list[int]] = {}
        for rank, place in enumerate(self._places):
            by_host.setdefault(place.host, []).append(rank)
        usual = median_low(seconds)  # of two, the faster one
        for host, ranks in by_host.items():
            factors = {rank: seconds[rank] / (usual or 1.0) for rank in ranks}
            if len(by_host) > 1 < len(ranks) and min(factors.values()) >= BEHIND:
                yield f"the {len(ranks)} ranks of {host}", (ranks, min(factors.values()))
                continue
            for rank, factor in factors.items():
                if factor >= BEHIND:
                    yield f"rank {rank} ({self._places[rank]})", ([rank], factor)
