"""A file as readers see it: bytes without compression, lines without an encoding, and words for where something is.

pyarrow is imported only where a file needs it, for the launcher reads recipes too.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from shardtune.rows.row_faults import Faults, RowLocation

TextUnit = Literal["line", "paragraph", "file"]

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class Record(NamedTuple):
    """A row as its file has it."""

    values: dict[str, Any]
    """By the file's names of the columns."""
    line: int = 0
    """Where it begins, from 1; 0 in files that have no lines."""
    item: int = 0
    """Its number among the rows, from 1; 0 where the line says enough."""


class Part(NamedTuple):
    """Some of a file's lines, whole ones."""

    start: int
    """Where they begin, in bytes."""
    stop: int
    """Where the next line begins."""
    first_line: int
    """The number of the first one, from 1."""


@dataclass(frozen=True)
class File:
    """A file of rows, and how it is to be read."""

    path: Path
    text_unit: TextUnit = "line"
    """What a row of a .txt file is."""
    say: Callable[[str], None] = field(default=lambda _: None, compare=False)
    """Is told what a reader has chosen to take."""
    part: "Part | None" = None
    """Only these lines of it are read; None for all."""

    def open(self) -> BinaryIO:
        """The bytes, decompressed. Raises OSError, and so does reading from it."""
        compression = COMPRESSIONS.get(self.path.suffix.lower())
        if compression is None:
            return self.path.open("rb")
        import pyarrow as pa

        # Not the gzip module and a package for zstd: pyarrow is there anyway, has both, and says when one is cut off.
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(self.path), compression=compression)))

    def place(self, line: int = 0, *, item: int = 0, of_row: int = 0) -> RowLocation:
        """Where something is wrong with the one row that begins at line `of_row`, or else there, and with no other."""
        return RowLocation(place_in_words(self.path, line, item), (self.path, of_row or line, item), was_read=False)


def format_of(path: Path) -> str:
    """`.jsonl`, of `a.jsonl` and of `a.JSONL.gz`."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.suffix.lower()


def place_in_words(path: Path, line: int, item: int) -> str:
    """`a.csv:3`, `a.parquet: row 3` or `a.json:9 (row 3)`."""
    row = f"row {item}" if item else ""
    return f"{path}:{line}{f' ({row})' if row else ''}" if line else f"{path}: {row}"


def lines_of(file: File, faults: Faults) -> Iterator[tuple[int, str]]:
    """The lines that can be read, with their numbers; each one that cannot is a fault of a row of its own."""
    for number, line, what in checked_lines_of(file, faults):
        if what is None:
            yield number, line
        else:
            faults.add(file.place(number), what)


def checked_lines_of(file: File, faults: Faults) -> Iterator[tuple[int, str, str | None]]:
    """Each line, its number, and what is wrong with it. What is wrong with the whole file is added, and ends it."""
    first = file.part.first_line if file.part else 1
    number = first - 1
    try:
        with file.open() as stream:
            for number, raw in enumerate(_raw_lines(stream, file.part), start=first):
                if number == 1 and (encoding := _wide_encoding(raw)):
                    faults.add(file.path, f"looks like {encoding}; convert it: iconv -f {encoding} -t UTF-8")
                    return
                yield number, *_decoded(raw, is_first=number == 1)
    except OSError as error:
        faults.add(f"{file.path}:{number + 1}", f"cannot be read any further ({error.strerror or error})")


def _raw_lines(stream: BinaryIO, part: Part | None) -> Iterator[bytes]:
    if part is None:
        yield from stream
        return
    stream.seek(part.start)
    left = part.stop - part.start
    while left > 0 and (raw := stream.readline()):
        left -= len(raw)
        yield raw


def _decoded(raw: bytes, *, is_first: bool) -> tuple[str, str | None]:
    try:
        line = raw.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}"
        return raw.decode("utf-8", errors="replace"), f"not UTF-8 ({place})"
    if (at := raw.find(b"\0")) >= 0:
        return line, f"a NUL character (byte {at + 1} of the line)"
    return line, None


_MARKS = (
    (b"\xff\xfe\0\0", "UTF-32"),
    (b"\0\0\xfe\xff", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
)


def _wide_encoding(line: bytes) -> str | None:
    """The encoding that a file with this first line has by its mark, or by the zeros between its ASCII characters."""
    for mark, encoding in _MARKS:
        if line.startswith(mark):
            return encoding
    start = line[:1000]
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = start[first::2], start[1 - first :: 2]
        if len(zeros) > 3 and zeros.count(0) > len(zeros) / 3 and others.count(0) <= 1:
            return encoding
    return None
