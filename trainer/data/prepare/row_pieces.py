"""Rows on the disk, in pieces, so that no process ever holds more than a few of them.

A piece is a file of rows of one source, as they were read and under the data's own names for the columns.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.rows.columns import ColumnNames
from shardtune.rows.input_file import Record
from shardtune.rows.source import Row, row_of
from shardtune.trainer.data.stored import row_line, row_of_line

ROWS_AT_ONCE, CHUNK_BYTES = 1000, 1 << 20
"""A process holds at most this many rows at a time, of about this many bytes together."""
OUT = 255
"""The split number of a row that was dropped."""

StoredRow = tuple[dict[str, Any], int, int, bool]
"""A Record as a plain tuple, which is faster to store."""


@dataclass(frozen=True)
class RowPiece:
    """A file of rows."""

    name: str
    source: int
    num_rows: int


class LocatedRows(NamedTuple):
    """Some rows, and where they are in their piece."""

    rows: list[Row]
    numbers: NDArray[np.int64]
    """The number of each row among all rows of its piece; shape (rows,)."""


class Pieces:
    """All rows that were read, under our names for their columns."""

    def __init__(
        self,
        folder: Path,
        pieces: Sequence[RowPiece],
        columns: Sequence[ColumnNames],
        add_named_columns: Callable[[Row], Row],
    ) -> None:
        """`columns` map, for each source, our names to the source's; `add_named_columns` adds the columns that the
        task's options name."""
        self._folder = folder
        self.pieces = pieces
        self.columns = columns
        self._add_named_columns = add_named_columns
        self.starts = np.cumsum([0, *(piece.num_rows for piece in pieces)])
        """The number of each piece's first row among all rows, then the number of all rows; shape (pieces + 1,)."""

    def row(self, row_number: int) -> Row:
        """The row of this number among all rows; reads the piece that holds it."""
        number = int(np.searchsorted(self.starts, row_number, side="right")) - 1
        at = row_number - int(self.starts[number])
        for rows in self.chunks(number):
            if at < len(rows):
                return rows[at]
            at -= len(rows)
        raise IndexError(row_number)

    def chunks(self, number: int) -> Iterator[list[Row]]:
        """The rows of a piece, some at a time."""
        piece = self.pieces[number]
        columns = self.columns[piece.source]
        with (self._folder / piece.name).open("rb") as file:
            num_left = piece.num_rows
            while num_left:
                path, stored_rows = load_chunk(file)
                num_left -= len(stored_rows)
                rows = []
                for stored_row in stored_rows:
                    row = row_of(Record(*stored_row), path, columns, number=piece.source)
                    rows.append(self._add_named_columns(row))
                yield rows

    def chunks_of(self, number: int, splits: NDArray[np.uint8], split: int) -> Iterator[LocatedRows]:
        """The rows of a piece that are in this split, some at a time; `splits` has the split number of all rows."""
        start = int(self.starts[number])
        is_in_split = splits[start : start + self.pieces[number].num_rows] == split
        if not is_in_split.any():
            return
        begin = 0
        for rows in self.chunks(number):
            chosen = np.flatnonzero(is_in_split[begin : begin + len(rows)])
            if len(chosen) == len(rows):
                yield LocatedRows(rows, chosen + begin)
            elif len(chosen):
                yield LocatedRows([rows[at] for at in chosen.tolist()], chosen + begin)
            begin += len(rows)


class Rows(Sequence[Row]):
    """The rows of one split, read from the disk at each access."""

    def __init__(self, pieces: Pieces, splits: NDArray[np.uint8], split: int) -> None:
        self._pieces, self._splits, self._split = pieces, splits, split

    def __len__(self) -> int:
        return int(np.count_nonzero(self._splits == self._split))

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._pieces.pieces)):
            for located in self._pieces.chunks_of(number, self._splits, self._split):
                yield from located.rows

    def __getitem__(self, at: Any) -> Any:
        """A single row; reads the piece that holds it."""
        assert isinstance(at, int), "rows are read one by one, or all of them"
        return self._pieces.row(int(np.flatnonzero(self._splits == self._split)[at]))


def store_chunk(file: BinaryIO, path: Path, chunk: Sequence[StoredRow]) -> None:
    """Appends some rows of one file to an open piece."""
    file.write(row_line([str(path), chunk]))


def load_chunk(file: BinaryIO) -> tuple[Path, list[StoredRow]]:
    """The next rows of an open piece, and the file that they were read from. Raises DataError if it is damaged."""
    try:
        path, chunk = row_of_line(file.readline())
        return Path(path), chunk
    except (ValueError, TypeError) as error:
        folder = Path(file.name).parents[1]
        raise DataError(
            f"{file.name} is damaged ({error}); delete {folder} and run again to prepare the data again"
        ) from error


def chunked(records: Iterator[Record]) -> Iterator[list[StoredRow]]:
    """The records, in chunks of at most about CHUNK_BYTES and ROWS_AT_ONCE rows."""
    num_at_once = 16
    chunk: list[StoredRow] = []
    for record in records:
        chunk.append((record.values, record.line, record.item, record.has_word_a_line))
        if len(chunk) >= num_at_once:
            yield chunk
            row_bytes = len(row_line(chunk[:16])) // 16 + 1
            num_at_once = max(1, min(ROWS_AT_ONCE, CHUNK_BYTES // row_bytes))
            chunk = []
    if chunk:
        yield chunk
