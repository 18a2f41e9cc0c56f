"""The training rows as they come from their sources, for data that are not prepared beforehand.

The rows of a step follow from the seed, the number of the step and the sources alone, whatever the number of ranks.
Each lane is read by one rank, and only a window of its rows is held at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row, row_of
from shardtune.trainer.data.batches.exchange import gather_or_raise
from shardtune.trainer.data.batches.lanes import LaneNumbers, Lanes, Rotation, lanes_of, times_before
from shardtune.trainer.data.batches.order import shuffled
from shardtune.trainer.data.prepare.sources import ReadResult, ReadUnit, Sources, sources_of, with_named_columns
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.tasks import TASKS

ROWS_AT_ONCE = 256
PASSED_AT_ONCE = 1 << 18
"""A resume reads past so many rows, in seconds, before the ranks ask each other which lanes have ended."""
_STREAM_KEYS = 2**62
"""Greater than the number of any epoch that an Order shuffles."""

Check = Callable[[Sequence[Row], Faults], None]


@dataclass(frozen=True)
class StepRows:
    """The rows of a step, each where it was read."""

    readers: NDArray[np.int64]
    """The rank that has read each row; shape (rows,)."""
    own: Mapping[int, Row]
    """Those that this rank has read, by their positions in the step."""


class Lane:
    """The rows of a lane, epoch by epoch, shuffled within windows, differently in each epoch."""

    def __init__(
        self,
        recipe: Recipe,
        sources: Sources,
        unit: ReadUnit,
        columns: Mapping[str, str],
        check: Check,
        *,
        number: int,
        window: int,
    ) -> None:
        """`columns` map our names to the source's; `check` adds the faults of rows."""
        self._recipe, self._sources, self._unit, self._columns = recipe, sources, unit, columns
        self._check, self._number, self._window = check, number, window

    def begin(self, epoch: int) -> None:
        """Starts at the first row, in the order of this epoch."""
        self._num_passed = 0
        self._rows = self._shuffled(epoch)

    def take(self, count: int) -> list[Row]:
        """The next rows of the epoch, fewer at its end. Raises BadRowsError."""
        return list(islice(self._rows, count))

    def drop(self, count: int) -> int:
        """Reads past the next rows of the epoch, which are not checked; how many there were. Raises BadRowsError.

        Only for rows before the first ones that are taken.
        """
        self._num_passed += count
        return sum(1 for _ in islice(self._rows, count))

    def _shuffled(self, epoch: int) -> Iterator[Row]:
        for number, window in enumerate(self._windows()):
            key = _STREAM_KEYS + (self._number << 50) + (epoch << 32) + number
            for at in shuffled(self._recipe.train.seed, key, len(window)).tolist():
                yield window[at]

    def _windows(self) -> Iterator[list[Row]]:
        window: list[Row] = []
        for rows in self._chunks():
            window += rows
            while len(window) >= self._window:
                yield window[: self._window]
                del window[: self._window]
        if window:
            yield window

    def _chunks(self) -> Iterator[list[Row]]:
        """All good rows, once."""
        result = ReadResult()
        size = min(ROWS_AT_ONCE, self._window)
        chunk: list[Row] = []
        num_rows = 0
        for path, records in self._sources.records(self._unit, result):
            for record in records:
                row = row_of(record, path, self._columns, number=self._unit.source)
                chunk.append(with_named_columns(row, self._recipe))
                if len(chunk) == size:
                    num_rows += len(chunk)
                    yield self._good(chunk, result.faults, is_passed=num_rows <= self._num_passed)
                    chunk = []
        num_rows += len(chunk)
        yield self._good(chunk, result.faults, is_passed=num_rows <= self._num_passed)

    def _good(self, rows: list[Row], unread: Faults, *, is_passed: bool) -> list[Row]:
        """The good rows. Raises BadRowsError if one is bad and may not be skipped."""
        are_skipped = self._recipe.data.on_bad_row == "skip"
        if unread and not (are_skipped and unread.are_rows_alone):
            raise BadRowsError(unread)
        if is_passed and not are_skipped:
            return rows  # none of which was bad when they were trained on
        faults = Faults()
        self._check(rows, faults)
        if faults and not (are_skipped and faults.are_rows_alone):
            raise BadRowsError(faults)
        return [row for row in rows if row.key not in faults.rows] if faults else rows


class Stream:
    """The rows of train, epoch after epoch, from all lanes in rotation."""

    def __init__(self, lanes: Lanes, own: Mapping[int, Lane], ranks: Ranks, size: int) -> None:
        """`own` are the lanes that this rank reads, by their numbers; a step has `size` rows."""
        self._turns, self._readers = lanes.turns, lanes.readers(ranks.world_size)
        self._own, self._ranks, self._size = own, ranks, size

    def steps(self, first: int) -> Iterator[StepRows]:
        """Collective: the rows of each step from `first` on, without end. Earlier rows are read, but not checked.

        Raises BadRowsError, or DataError if there are no rows, on all ranks alike.
        """
        self._begin(0)
        self._pass(first * self._size)
        while True:
            lanes: LaneNumbers = np.empty(0, dtype=np.int64)
            own: dict[int, Row] = {}
            while len(lanes) < self._size:
                if self._rotation.is_over:
                    self._begin(self._epoch + 1)
                more, rows = self._take(self._size - len(lanes))
                own |= {len(lanes) + at: row for at, row in rows.items()}
                lanes = np.concatenate([lanes, more])
            yield StepRows(self._readers[lanes], own)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._num_rows = epoch, 0
        self._rotation = Rotation(self._turns)
        for lane in self._own.values():
            lane.begin(epoch)

    def _pass(self, count: int) -> None:
        """Collective: reads past so many rows, of which each epoch's are the same: only those of one are read."""
        while count:
            lanes, _ = self._take(min(count, PASSED_AT_ONCE), are_dropped=True)
            count -= len(lanes)
            beat()  # no step can be done meanwhile, which may take an hour
            if self._rotation.is_over:
                num_rows = self._num_rows
                self._begin(self._epoch + 1 + count // num_rows)
                count %= num_rows

    def _take(self, count: int, *, are_dropped: bool = False) -> tuple[LaneNumbers, dict[int, Row]]:
        """Collective: the lanes of the next rows of the epoch, fewer at its end, and the rows that this rank has read,
        by their positions among them; none if they are dropped.

        Each lane is asked for its rows as if none ended; the turns of a lane that does are passed over, and the others
        are asked for what is missing. So how many are taken at a time does not change the order.
        """
        lanes: LaneNumbers = np.empty(0, dtype=np.int64)
        own: dict[int, Row] = {}
        while len(lanes) < count and not self._rotation.is_over:
            wanted = self._rotation.take(count - len(lanes))
            given, rows = self._ask(np.bincount(wanted, minlength=len(self._turns)), are_dropped=are_dropped)
            taken = wanted[times_before(wanted) < given[wanted]]
            for number, own_rows in rows.items():
                places = len(lanes) + np.flatnonzero(taken == number)
                own |= zip(places.tolist(), own_rows, strict=True)
            lanes = np.concatenate([lanes, taken])
        self._num_rows += len(lanes)
        if self._rotation.is_over and not self._num_rows:
            raise DataError("data.train: no rows left to stream")
        return lanes, own

    def _ask(self, counts: NDArray[np.int64], *, are_dropped: bool) -> tuple[NDArray[np.int64], dict[int, list[Row]]]:
        """Collective: how many of so many rows each lane has had, and the rows of own lanes. Closes lanes that end."""
        rows: dict[int, list[Row]] = {}
        short: dict[int, int] = {}
        errors: dict[int, DataError] = {}
        for number, lane in self._own.items():
            wanted = int(counts[number])
            if not wanted:
                continue
            try:
                if are_dropped:
                    found = lane.drop(wanted)
                else:
                    rows[number] = lane.take(wanted)
                    found = len(rows[number])
            except DataError as error:
                errors[number] = error
                continue
            if found < wanted:
                short[number] = found
        given = counts.copy()
        for by_lane in gather_or_raise(self._ranks, short, errors):
            for number, found in by_lane.items():
                given[number] = found
                self._rotation.close(number)
        return given, rows


def open_stream(facts: Mapping[str, Any], columns: Sequence[Mapping[str, str]], recipe: Recipe, ranks: Ranks) -> Stream:
    """Collective: the training rows of a recipe that streams them; only the first ones are prepared.

    `columns` map, for each source, our names to the source's.
    """
    task = TASKS[recipe.task.kind]
    known = task.survey(recipe.task)
    may_misfit = known.adopt(facts)

    def check(rows: Sequence[Row], faults: Faults) -> None:
        task.survey(recipe.task).observe("train", rows, faults)
        if may_misfit:
            known.observe("train", [row for row in rows if row.key not in faults.rows], faults)

    # One rank looks at all files, which may be many thousands, and whose sizes may not change from rank to rank.
    parts = _parts(recipe, ranks.world_size) if ranks.is_zero else [None] * ranks.world_size
    part = ranks.exchange(parts)[0]
    assert part is not None, "rank 0 sends them"
    lanes, sources = part
    windows = lanes.windows(recipe.data.shuffle_window)
    own = {
        number: Lane(recipe, sources, unit, columns[unit.source], check, number=number, window=windows[number])
        for number, unit in lanes.units.items()
    }
    return Stream(lanes, own, ranks, recipe.train.global_batch_size)


def _parts(recipe: Recipe, world_size: int) -> list[tuple[Lanes, Sources] | None]:
    """For each rank the lanes, with what it reads itself, and the sources with these files alone."""
    sources = sources_of(recipe)
    lanes = lanes_of(sources, len(recipe.data.sources("train")))
    of_ranks = [lanes.of_rank(rank, world_size) for rank in range(world_size)]
    return [(own, sources.limited_to(list(own.units.values()))) for own in of_ranks]
