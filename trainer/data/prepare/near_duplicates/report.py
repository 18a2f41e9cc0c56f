"""Whether near duplicates are looked for, what is said of them, and which rows are dropped (data.near_duplicates)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.counted import counted
from shardtune.errors import DataError
from shardtune.recipe.sections.data import DataConfig
from shardtune.trainer.data.prepare.near_duplicates.search import NearRows

Mode = Literal["auto", "off", "count", "drop"]
"""The values of data.near_duplicates."""
MOST_ROWS, MOST_INDEXED = 1_000_000, 100_000
"""With auto, near duplicates are looked for among at most this many rows, of which so many of dev and test."""
NUM_SHOWN = 3


@dataclass(frozen=True)
class NearLeak:
    """Rows of one split that nearly equal rows of another, besides those with the same input."""

    of: str
    inside: str
    rows: int
    first: list[str]
    """The locations of the first few, each with the nearest row of the other split and their similarity."""


@dataclass(frozen=True)
class NearReport:
    """What was found, and what becomes of it."""

    leaks: list[NearLeak]
    """Without pairs of splits that have none."""
    dropped: NDArray[np.int64]
    """The numbers of the rows that are dropped."""
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """What is kept with the prepared data."""
        return {"leaks": [asdict(leak) for leak in self.leaks], "dropped": len(self.dropped)}


def is_searched(data: DataConfig, sizes: Mapping[str, int]) -> bool:
    """Whether near duplicates between splits of these sizes are looked for."""
    num_indexed = _num_indexed(sizes)
    if data.near_duplicates == "off" or data.streaming or not num_indexed:
        return False
    return data.near_duplicates != "auto" or (sum(sizes.values()) <= MOST_ROWS and num_indexed <= MOST_INDEXED)


def not_searched(data: DataConfig, sizes: Mapping[str, int]) -> str | None:
    """Says that near duplicates were not looked for because there are too many rows; None if that is not why."""
    if data.near_duplicates != "auto" or data.streaming or not _num_indexed(sizes):
        return None
    rows = counted(sum(sizes.values()), "row")
    return f"near duplicates between splits were not looked for among {rows}; data.near_duplicates=count does"


def _num_indexed(sizes: Mapping[str, int]) -> int:
    return sizes.get("dev", 0) + sizes.get("test", 0)


def near_report(found: NearRows, sizes: Mapping[str, int], mode: Mode, location: Callable[[int], str]) -> NearReport:
    """What is said of near duplicates, and which rows are dropped.

    `sizes` has the rows of each split, and `location` says where a row was written. Raises DataError if that leaves no
    training rows.
    """
    leaks = [
        NearLeak(
            of,
            inside,
            len(pairs),
            [f"{location(row)} ~ {location(other)} ({similarity:.2f})" for row, other, similarity in pairs[:NUM_SHOWN]],
        )
        for (of, inside), pairs in found.pairs.items()
        if pairs
    ]
    dropped = found.near_rows["train"][: None if mode == "drop" else 0]
    notes = list(_notes(leaks, sizes, mode))
    if len(dropped):
        notes.append(f"near duplicates dropped (data.near_duplicates: drop): {len(dropped):,} of train")
    if len(dropped) == sizes["train"]:
        reason = f"all {len(dropped):,} are near duplicates of dev or test rows (data.near_duplicates: drop)"
        raise DataError(f"data.train: no rows left: {reason}")
    return NearReport(leaks, dropped, notes)


def _notes(leaks: list[NearLeak], sizes: Mapping[str, int], mode: Mode) -> Iterator[str]:
    for leak in leaks:
        is_mended = mode == "drop" or leak.inside != "train"
        hint = "" if is_mended else "; data.near_duplicates=drop drops those train rows"
        yield (
            f"near duplicates: {counted(leak.rows, f'{leak.of} row')} ({leak.rows / sizes[leak.of]:.1%}) nearly the "
            f"same as a {leak.inside} row, such as {', '.join(leak.first)}{hint}"
        )
