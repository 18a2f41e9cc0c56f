"""Which rank the others wait for, and how much time of all ranks that costs. Pure arithmetic on seconds by rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Any

BEHIND = 1.25
"""A rank that takes this many times the median is behind. Rows of unequal lengths even out far below that within a
window; a GPU that is throttled, or has lost a PCIe lane, is far above."""
NUM_WINDOWS = 3
"""Windows in a row that a rank must be behind before it is reported."""
WINDOW_S = 10.0
"""The minimum length of a window, because single steps differ by what is in them."""
NUM_SHOWN = 64
"""With more ranks than this, metrics.jsonl does not list the time of each."""


@dataclass(frozen=True)
class RankLocation:
    """The machine and GPU of a rank."""

    host: str
    gpu: int | None
    """The machine's own number of the GPU; None on a CPU."""

    def __str__(self) -> str:
        return self.host if self.gpu is None else f"{self.host}, GPU {self.gpu}"


@dataclass(frozen=True)
class Straggler:
    """A rank, or a machine with all of its ranks, that has been behind for several windows."""

    name: str
    host: str
    factor: float
    """Its compute time, as a multiple of the median."""
    lost_share: float

    @property
    def title(self) -> str:
        return f"the other ranks wait for {self.name}"

    @property
    def text(self) -> str:
        return (
            f"computing took {self.factor:.2g} times as long as the median for the last {NUM_WINDOWS} intervals, and "
            f"{self.lost_share:.0%} of the time of all ranks is lost by waiting. Is the GPU hot or shared, or the CPU "
            f"busy? shardtune doctor measures both; job.sbatch_options: [--exclude={self.host}] excludes the machine"
        )


def lost_share(seconds: Sequence[float], ranks: Sequence[int]) -> float:
    """The fraction of the time of all ranks that is spent waiting for the slowest of `ranks`.

    0 if another rank is slower still, because all wait for that one. `seconds` is the compute time of each rank.
    """
    longest = max(seconds[rank] for rank in ranks)
    others = [time for rank, time in enumerate(seconds) if rank not in set(ranks)]
    if not longest or not others or max(others) > longest:
        return 0.0
    return sum(longest - time for time in others) / (longest * len(seconds))


class Pace:
    """Follows the compute time of each rank from report to report."""

    def __init__(self, places: Sequence[RankLocation]) -> None:
        self._places = places
        self._sums = [0.0] * len(places)
        self._elapsed_s = 0.0
        self._behind: dict[str, int] = {}
        """Name of a rank or machine -> windows in a row that it has been behind."""

    def numbers(self, seconds: Sequence[float]) -> dict[str, Any]:
        """The entries of a `step` event: seconds by rank, and the slowest rank; empty with a single rank."""
        if len(seconds) < 2 or not max(seconds):
            return {}
        rank = max(range(len(seconds)), key=seconds.__getitem__)
        shown = {"compute_s": [round(time, 6) for time in seconds]} if len(seconds) <= NUM_SHOWN else {}
        return shown | {
            "slowest_rank": rank,
            "slowest_host": self._places[rank].host,
            "slowest_gpu": self._places[rank].gpu,
            "lost_share": round(lost_share(seconds, [rank]), 6),
        }

    def add(self, seconds: Sequence[float], elapsed_s: float) -> list[Straggler]:
        """Returns those that have now been behind for NUM_WINDOWS windows, each once for as long as it stays behind."""
        self._sums = [total + time for total, time in zip(self._sums, seconds, strict=True)]
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
        """Yields name -> (ranks, factor); a machine whose ranks are all behind is yielded as a whole."""
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
