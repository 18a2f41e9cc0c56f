"""The training rows as they come from their sources, for data that are not prepared beforehand.

The rows of a step follow from the seed, the number of the step and the sources alone: every rank finds the same ones,
whatever the number of ranks. Only a window of rows is held at a time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row, row_of
from shardtune.trainer.data.batches.order import shuffled
from shardtune.trainer.data.prepare.sources import ReadResult, ReadUnit, sources_of, with_named_columns
from shardtune.trainer.tasks import TASKS

ROWS_AT_ONCE = 256
_STREAM_KEYS = 2**62
"""Greater than the number of any epoch that an Order shuffles."""


class Stream:
    """The rows of train, epoch after epoch, shuffled within windows, differently in each epoch."""

    def __init__(
        self,
        recipe: Recipe,
        columns: Sequence[Mapping[str, str]],
        check: Callable[[Sequence[Row], Faults], None],
    ) -> None:
        """`columns` map, for each source, our names to the source's; `check` adds the faults of rows."""
        self._recipe, self._columns, self._check = recipe, columns, check
        self._window = recipe.data.shuffle_window
        self._size = recipe.train.global_batch_size

    def steps(self, first: int) -> Iterator[list[Row]]:
        """The rows of each step from `first` on, without end. Earlier rows are read, but not checked.

        Raises BadRowsError, or DataError if there are no rows.
        """
        pending, epoch = list[Row](), 0
        left = first * self._size
        while True:
            num_rows, num_passed = 0, left
            for number, window in enumerate(self._windows(num_passed)):
                num_rows += len(window)
                if left >= len(window):
                    left -= len(window)
                    continue
                order = shuffled(self._recipe.train.seed, _STREAM_KEYS + (epoch << 32) + number, len(window))
                pending += [window[at] for at in order.tolist()[left:]]
                left = 0
                while len(pending) >= self._size:
                    yield pending[: self._size]
                    del pending[: self._size]
            if not num_rows:
                raise DataError("data.train: no rows left to stream")
            epoch += 1 + left // num_rows
            left %= num_rows

    def _windows(self, num_passed: int) -> Iterator[list[Row]]:
        window: list[Row] = []
        for rows in self._chunks(num_passed):
            window += rows
            while len(window) >= self._window:
                yield window[: self._window]
                del window[: self._window]
        if window:
            yield window

    def _chunks(self, num_passed: int) -> Iterator[list[Row]]:
        """All good rows, once; about `num_passed` of the first ones are not checked."""
        sources = sources_of(self._recipe)
        num_rows = 0
        for number in range(len(self._recipe.data.sources("train"))):
            result = ReadResult()
            unit = ReadUnit(number, tuple((path, None) for path in sources.files[number]))
            chunk: list[Row] = []
            for path, records in sources.records(unit, result):
                for record in records:
                    row = row_of(record, path, self._columns[number], number=number)
                    chunk.append(with_named_columns(row, self._recipe))
                    if len(chunk) == ROWS_AT_ONCE:
                        num_rows += len(chunk)
                        yield self._good(chunk, result.faults, is_passed=num_rows <= num_passed)
                        chunk = []
            num_rows += len(chunk)
            yield self._good(chunk, result.faults, is_passed=num_rows <= num_passed)

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


def open_stream(facts: Mapping[str, Any], columns: Sequence[Mapping[str, str]], recipe: Recipe) -> Stream:
    """The training rows of a recipe that streams them; only the first ones are prepared."""
    task = TASKS[recipe.task.kind]
    known = task.survey(recipe.task)
    may_misfit = known.adopt(facts)

    def check(rows: Sequence[Row], faults: Faults) -> None:
        task.survey(recipe.task).observe("train", rows, faults)
        if may_misfit:
            known.observe("train", [row for row in rows if row.key not in faults.rows], faults)

    return Stream(recipe, columns, check)
