"""The rows of a recipe's sources, read once into pieces on the disk, so that no process ever holds more than a few.

A piece is a file of rows of one source, as they were read and under the data's own names for the columns.
"""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.rows.formats import read_file
from shardtune.rows.hub import read_dataset
from shardtune.rows.input_file import COMPRESSIONS, File, Part, Record, TextUnit, format_of
from shardtune.rows.parallel_text import sides_of
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row, row_of
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import FindError, find_files, is_dataset
from shardtune.trainer.data.prepare.work_queue import WorkQueue, published

MAX_PIECES, MIN_PIECE_BYTES = 256, 1 << 20
COMPRESSION = 4
"""How much longer a compressed file is taken to be, when all is read."""
ROWS_AT_ONCE, CHUNK_BYTES = 1000, 1 << 20
"""A process has no more rows at a time than these, or than come to so many bytes."""
OUT = 255
"""What a row's split is if it is dropped."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Reading:
    """What a unit of reading is: a source, or some of its files, or a part of one."""

    source: int
    files: tuple[tuple[Path, Part | None], ...]
    """None of them if it is a data set."""
    limit: int | None = None
    """At most so many rows of it; None for all."""


@dataclass(frozen=True)
class RowPiece:
    """A file of rows."""

    name: str
    source: int
    num_rows: int


@dataclass
class Read:
    """What came of a unit of reading."""

    pieces: list[RowPiece] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    """Those that any row has, in the order in which they were found."""
    faults: Faults = field(default_factory=Faults)
    said: list[str] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return sum(piece.num_rows for piece in self.pieces)


class Sources:
    """The sources of all splits, by their numbers."""

    def __init__(self, numbered: Sequence[tuple[str, SourceConfig]], text_unit: TextUnit) -> None:
        """Their splits and what the recipe says of them. Raises FindError if a path stands for nothing."""
        self.numbered = numbered
        self._text_unit = text_unit

    @cached_property
    def files(self) -> list[list[Path]]:
        """Of each source; none of a data set."""
        return [[] if is_dataset(source.path) else find_files(source.path) for _, source in self.numbered]

    @cached_property
    def num_bytes(self) -> int:
        """About how long all files are when they are read; of data sets nothing is known."""
        return sum(_size(path) for files in self.files for path in files)

    @property
    def piece_bytes(self) -> int:
        """How long a piece should be: few enough to be open at once, many enough for all cores to have one."""
        return max(MIN_PIECE_BYTES, self.num_bytes // MAX_PIECES)

    def readings(self, work: WorkQueue, size: int, heads: Mapping[int, int] | None = None) -> list[Reading]:
        """How all that is to be read is divided into units of about so many bytes; the same on every machine.

        `heads` are the sources of which only the first rows are read, and how many.
        """
        heads = heads or {}
        whole = (files for number, files in enumerate(self.files) if number not in heads)
        cuts = [
            (path, _cut(path, size) if self._has_lines(path) else [])
            for path in dict.fromkeys(chain.from_iterable(whole))
        ]
        ranges = [(path, start, stop) for path, its in cuts for start, stop in its]
        counts = iter(work.map("lines", len(ranges), lambda unit: _num_lines(*ranges[unit])))
        parts: dict[Path, list[Part]] = {}
        for path, its in cuts:
            lines = list(accumulate((next(counts) for _ in its), initial=1))
            parts[path] = [Part(*pair, first) for pair, first in zip(its, lines, strict=False)]
        readings = []
        for number, files in enumerate(self.files):
            if number in heads:
                readings.append(Reading(number, tuple((path, None) for path in files), heads[number]))
                continue
            if is_dataset(self.numbered[number][1].path):
                readings.append(Reading(number, ()))
            together: list[tuple[Path, None]] = []
            for path in files:
                if parts[path] and together:
                    readings.append(Reading(number, tuple(together)))
                    together = []
                readings += [Reading(number, ((path, part),)) for part in parts[path]]
                if not parts[path]:
                    together.append((path, None))
                if sum(_size(its) for its, _ in together) >= size:
                    readings.append(Reading(number, tuple(together)))
                    together = []
            if together:
                readings.append(Reading(number, tuple(together)))
        return readings

    def read(self, reading: Reading, name: str, folder: Path, piece_bytes: int) -> Read:
        """Writes the rows of a unit into pieces in the folder, whose names begin with `name`."""
        read = Read()
        with ExitStack() as stack:
            file: BinaryIO | None = None
            for path, records in self.records(reading, read):
                left = None if reading.limit is None else reading.limit - read.num_rows
                for chunk in _chunks(islice(records, left)):
                    if file is None or file.tell() > piece_bytes:
                        stack.close()
                        read.pieces.append(RowPiece(f"{name}-{len(read.pieces):05}.rows", reading.source, 0))
                        file = stack.enter_context(
                            stack.enter_context(published(folder / read.pieces[-1].name)).open("wb")
                        )
                    last = read.pieces[-1]
                    read.pieces[-1] = RowPiece(last.name, last.source, last.num_rows + len(chunk))
                    for values, _, _ in chunk:
                        read.columns.update(dict.fromkeys(values))
                    file.write(pickle.dumps((path, chunk), protocol=pickle.HIGHEST_PROTOCOL))
        return read

    def records(self, reading: Reading, read: Read) -> Iterator[tuple[Path, Iterator[Record]]]:
        """The rows of a unit, file by file; adds to `read` what is wrong and what a reader has to say."""
        split, source = self.numbered[reading.source]
        say = read.said.append
        if not reading.files:
            try:
                records = (record for _, record in read_dataset(source, split, read.faults, say))
                yield Path(source.path), records
            except FindError as error:
                read.faults.add(error.where, error.what)
        for path, part in reading.files:
            yield path, read_file(File(path, self._text_unit, say, part), read.faults)

    def _has_lines(self, path: Path) -> bool:
        """Whether each line of it can be read by itself."""
        form = format_of(path)
        is_plain = path.suffix.lower() not in COMPRESSIONS and not sides_of(path)
        return is_plain and (form == ".jsonl" or (form == ".txt" and self._text_unit == "line"))


def _size(path: Path) -> int:
    sizes = [its.stat().st_size for its in sides_of(path).values() or [path]]
    return sum(sizes) * (COMPRESSION if path.suffix.lower() in COMPRESSIONS else 1)


def _cut(path: Path, size: int) -> list[tuple[int, int]]:
    """Stretches of about so many bytes, each of whole lines; none if it is not worth while."""
    length = path.stat().st_size
    if length <= size:
        return []
    ends = [0]
    with path.open("rb") as file:
        for wanted in range(size, length, size):
            if wanted > ends[-1]:
                file.seek(wanted - 1)
                file.readline()
                ends.append(file.tell())
    return [(start, stop) for start, stop in zip(ends, [*ends[1:], length], strict=True) if start < stop]


def _num_lines(path: Path, start: int, stop: int) -> int:
    count = 0
    with path.open("rb") as file:
        file.seek(start)
        while start < stop and (block := file.read(min(CHUNK_BYTES, stop - start))):
            count += block.count(b"\n")
            start += len(block)
    return count


Stored = tuple[Mapping[str, Any], int, int]
"""A row: its values, line and item."""


def _chunks(records: Iterator[Record]) -> Iterator[list[Stored]]:
    """So many at a time that they are no more than about CHUNK_BYTES."""
    at_once = 16
    chunk: list[Stored] = []
    for record in records:
        chunk.append((record.values, record.line, record.item))
        if len(chunk) >= at_once:
            yield chunk
            length = len(pickle.dumps(chunk[:16], protocol=pickle.HIGHEST_PROTOCOL)) // 16 + 1
            at_once = max(1, min(ROWS_AT_ONCE, CHUNK_BYTES // length))
            chunk = []
    if chunk:
        yield chunk


class Located(NamedTuple):
    """Where some rows are among all."""

    rows: list[Row]
    numbers: NDArray[np.int64]
    """Of each row, among those of its piece."""


class Pieces:
    """All rows that were read, under our names for their columns."""

    def __init__(
        self,
        folder: Path,
        pieces: Sequence[RowPiece],
        columns: Sequence[Mapping[str, str]],
        named_columns: Callable[[Row], Row],
    ) -> None:
        """`columns` are each source's, ours -> theirs; `named_columns` adds those that the task's options name."""
        self._folder = folder
        self.pieces = pieces
        self.columns = columns
        self._named_columns = named_columns
        self.starts = np.cumsum([0, *(piece.num_rows for piece in pieces)])
        """The number of each piece's first row among all, and how many rows there are."""

    def chunks(self, number: int) -> Iterator[list[Row]]:
        """The rows of a piece, some at a time."""
        piece = self.pieces[number]
        columns = self.columns[piece.source]
        with (self._folder / piece.name).open("rb") as file:
            left = piece.num_rows
            while left:
                path, stored = pickle.load(file)
                left -= len(stored)
                rows = []
                for values, line, item in stored:
                    row = row_of(Record(values, line, item), path, columns, number=piece.source)
                    rows.append(self._named_columns(row))
                yield rows

    def chunks_of(self, number: int, splits: NDArray[np.uint8], split: int) -> Iterator[Located]:
        """Those rows of a piece whose split, of all rows' in `splits`, is this one."""
        at = int(self.starts[number])
        its = splits[at : at + self.pieces[number].num_rows] == split
        if not its.any():
            return
        begin = 0
        for rows in self.chunks(number):
            chosen = np.flatnonzero(its[begin : begin + len(rows)])
            if len(chosen) == len(rows):
                yield Located(rows, chosen + begin)
            elif len(chosen):
                yield Located([rows[here] for here in chosen.tolist()], chosen + begin)
            begin += len(rows)


class Rows(Sequence[Row]):
    """The rows of one split, which are read whenever somebody looks at them."""

    def __init__(self, pieces: Pieces, splits: NDArray[np.uint8], split: int) -> None:
        self._pieces, self._splits, self._split = pieces, splits, split

    def __len__(self) -> int:
        return int(np.count_nonzero(self._splits == self._split))

    def __iter__(self) -> Iterator[Row]:
        for number in range(len(self._pieces.pieces)):
            for located in self._pieces.chunks_of(number, self._splits, self._split):
                yield from located.rows

    def __getitem__(self, at: Any) -> Any:
        """A single row; the piece that it is in is read for it."""
        assert isinstance(at, int), "rows are had one by one, or all"
        wanted = int(np.flatnonzero(self._splits == self._split)[at])
        number = int(np.searchsorted(self._pieces.starts, wanted, side="right")) - 1
        at = wanted - int(self._pieces.starts[number])
        for rows in self._pieces.chunks(number):
            if at < len(rows):
                return rows[at]
            at -= len(rows)
        raise IndexError(at)
