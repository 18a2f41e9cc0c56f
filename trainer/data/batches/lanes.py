"""The lanes of a stream: groups of files that are read side by side, and the lane from which each next row comes.

Arithmetic on the files and their sizes: nothing here reads a row, or depends on the number of ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.mixture import interleave
from shardtune.trainer.data.prepare.sources import ReadUnit, Sources, file_bytes

MAX_LANES = 64
"""The lanes of a source that has all files; more files share them. Each lane has a file open, and a part of the shuffle
window."""
TURNS = 4096
"""About as many turns has the cycle in which lanes take turns, each in proportion to its bytes."""

LaneNumbers = NDArray[np.int64]


@dataclass(frozen=True)
class Lanes:
    """What each lane reads, and how often its turn comes."""

    turns: tuple[int, ...]
    """The turns of each lane in a cycle, at least one."""
    units: Mapping[int, ReadUnit]
    """What is read by each lane, by its number; by all lanes, or by those of a rank."""

    def windows(self, num_rows: int) -> list[int]:
        """How many rows each lane shuffles among each other, if they are about `num_rows` together."""
        return [-(-num_rows * turns // sum(self.turns)) for turns in self.turns]

    def readers(self, world_size: int) -> LaneNumbers:
        """The rank that reads each lane; spread over the nodes if there are more ranks than lanes. Shape (lanes,)."""
        apart = max(1, world_size // len(self.turns))
        readers: LaneNumbers = np.arange(len(self.turns)) * apart % world_size
        return readers

    def of_rank(self, rank: int, world_size: int) -> "Lanes":
        """The same, with the units of this rank's lanes only."""
        readers = self.readers(world_size)
        return replace(self, units={number: unit for number, unit in self.units.items() if readers[number] == rank})


def lanes_of(sources: Sources, num_sources: int) -> Lanes:
    """The lanes of the first `num_sources` sources. Each is of one source, so that sources are mixed by their sizes.

    The files of a source are divided among its lanes in rotation. Raises FindError if a path matches nothing.
    """
    files = sources.files[:num_sources]
    num_files = sum(map(len, files))
    units: list[ReadUnit] = []
    for number, paths in enumerate(files):
        num_lanes = max(1, min(len(paths), MAX_LANES * len(paths) // max(1, num_files)))
        units += [ReadUnit(number, tuple((path, None) for path in paths[at::num_lanes])) for at in range(num_lanes)]
    sizes = [sum(file_bytes(path) for path, _ in unit.files) for unit in units]
    known = [size for size in sizes if size] or [1]
    # A data set, whose size is not known, counts as an average lane.
    sizes = [size if unit.files else sum(known) // len(known) for unit, size in zip(units, sizes, strict=True)]
    total = max(1, sum(sizes))
    return Lanes(tuple(max(1, round(TURNS * size / total)) for size in sizes), dict(enumerate(units)))


class Rotation:
    """The lane of each next row of an epoch. Lanes that have no rows left are passed over."""

    def __init__(self, turns: Sequence[int]) -> None:
        self._cycle = interleave(turns).astype(np.int64)
        self._at = 0
        self._is_open = np.ones(len(turns), dtype=bool)

    @property
    def is_over(self) -> bool:
        """Whether no lane has rows left."""
        return not self._is_open.any()

    def take(self, count: int) -> LaneNumbers:
        """The lanes of the next `count` rows, if none of them ends before; shape (count,)."""
        places = np.flatnonzero(self._is_open[self._cycle])
        taken = places[(np.searchsorted(places, self._at) + np.arange(count)) % len(places)]
        self._at = int(taken[-1]) + 1
        lanes: LaneNumbers = self._cycle[taken]
        return lanes

    def close(self, lane: int) -> None:
        """Passes over this lane from now on."""
        self._is_open[lane] = False


def times_before(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the value at each place occurs before it; the shape of `values`, (places,)."""
    if not len(values):
        return values
    order = np.argsort(values, kind="stable")
    counts = np.bincount(values)
    before: NDArray[np.int64] = np.empty_like(values)
    before[order] = np.arange(len(values)) - np.repeat(np.cumsum(counts) - counts, counts)
    return before


def encoders_of(readers: NDArray[np.int64], world_size: int) -> NDArray[np.int64]:
    """The rank that encodes each row, for the ranks that have read them; shape (rows,).

    Each rank encodes as many rows, to within one: those that it has read, as far as they are not more than its part.
    """
    parts = np.full(world_size, len(readers) // world_size)
    parts[: len(readers) % world_size] += 1
    is_kept = times_before(readers) < parts[readers]
    free = parts - np.bincount(readers[is_kept], minlength=world_size)
    encoders = readers.copy()
    encoders[~is_kept] = np.repeat(np.arange(world_size), free)
    return encoders
