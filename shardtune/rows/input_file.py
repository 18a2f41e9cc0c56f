"""Files as the readers see them: decompressed bytes, decoded lines, and locations for messages.

pyarrow is imported only where a file needs it, because the launcher reads recipes too.
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
    """One row as it is in its file."""

    values: dict[str, Any]
    """Values by the file's column names."""
    line: int = 0
    """The line on which the row begins, from 1; 0 in files without lines."""
    item: int = 0
    """The row's number in the file, from 1; 0 where the line is enough to find it."""


class Part(NamedTuple):
    """A range of whole lines of a file."""

    start: int
    """Offset of the first line, in bytes."""
    stop: int
    """Offset of the first line after the range, in bytes."""
    first_line: int
    """The number of the first line, from 1."""


@dataclass(frozen=True)
class File:
    """A file of rows, and how to read it."""

    path: Path
    text_unit: TextUnit = "line"
    """What a row of a .txt file is."""
    say: Callable[[str], None] = field(default=lambda _: None, compare=False)
    """Is told what a reader has chosen."""
    part: "Part | None" = None
    """The lines to read; None for all."""

    def open(self) -> BinaryIO:
        """Return the decompressed bytes. Raises OSError, and so does reading from them."""
        compression = COMPRESSIONS.get(self.path.suffix.lower())
        if compression is None:
            return self.path.open("rb")
        import pyarrow as pa

        # Not gzip and a package for zstd: pyarrow is installed anyway, has both, and reports truncated files.
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(self.path), compression=compression)))

    def place(self, line: int = 0, *, item: int = 0, of_row: int = 0) -> RowLocation:
        """The location of a fault that affects only one row: the one that begins at line `of_row`, by default at
        `line`."""
        return RowLocation(place_in_words(self.path, line, item), (self.path, of_row or line, item), was_read=False)


def format_of(path: Path) -> str:
    """`.jsonl` for `a.jsonl` and for `a.JSONL.gz`."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.suffix.lower()


def place_in_words(path: Path, line: int, item: int) -> str:
    """`a.csv:3`, `a.parquet: row 3` or `a.json:9 (row 3)`."""
    row = f"row {item}" if item else ""
    return f"{path}:{line}{f' ({row})' if row else ''}" if line else f"{path}: {row}"


def lines_of(file: File, faults: Faults) -> Iterator[tuple[int, str]]:
    """The readable lines with their numbers; each unreadable line is added as the fault of a row."""
    for number, line, what in checked_lines_of(file, faults):
        if what is None:
            yield number, line
        else:
            faults.add(file.place(number), what)


def checked_lines_of(file: File, faults: Faults) -> Iterator[tuple[int, str, str | None]]:
    """Each line's number, its text, and what is wrong with it or None. A fault of the whole file is added, and ends the
    iteration."""
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
        faults.add(f"{file.path}:{number + 1}", f"cannot be read from here on ({error.strerror or error})")


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
    """The UTF-16 or UTF-32 encoding of a file with this first line, by its byte order mark or by zeros between ASCII
    characters; None otherwise."""
    for mark, encoding in _MARKS:
        if line.startswith(mark):
            return encoding
    start = line[:1000]
    for first, encoding in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        zeros, others = start[first::2], start[1 - first :: 2]
        if len(zeros) > 3 and zeros.count(0) > len(zeros) / 3 and others.count(0) <= 1:
            return encoding
    return None
