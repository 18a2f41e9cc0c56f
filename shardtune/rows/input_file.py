"""Files as the readers see them: decompressed bytes, decoded lines, and locations for messages.

pyarrow is imported only where a file needs it, because the launcher reads recipes too.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

from shardtune.rows.encodings import declared_encoding, guessed_encoding, remedy, unmarked_wide_encoding
from shardtune.rows.row_faults import Faults, RowLocation
from shardtune.section import TextFiles

TextUnit = Literal["line", "paragraph", "file"]

SAMPLE_BYTES = 1 << 16
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class Record(NamedTuple):
    """One row as it is in its file."""

    values: dict[str, Any]
    """Values by the file's column names."""
    line: int = 0
    """The line on which the row begins, from 1; 0 in files without lines."""
    item: int = 0
    """The row's number in the file, from 1; 0 where the line is enough to find it."""
    has_word_a_line: bool = False
    """Whether each of the row's words is on a line of its own."""


class Part(NamedTuple):
    """A range of whole lines of a file."""

    start: int
    """Offset of the first line, in bytes."""
    stop: int
    """Offset of the first line after the range, in bytes."""
    first_line: int
    """The number of the first line, from 1."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How the files of a source are read, as far as their names and contents do not tell."""

    format: str | None = None
    """None decides by the ending of the name, or else by the content."""
    encoding: str | None = None
    """The encoding of text, by Python's name; None is UTF-8, or what a byte order mark says."""
    header: bool = True
    """Whether the first record of a CSV or TSV names the columns."""
    separator: str | None = None
    """Between the cells of CSV and TSV; None finds out."""
    text_unit: TextUnit = "line"
    """What a row of a text file is."""
    text_files: TextFiles = "text"


@dataclass(frozen=True)
class File:
    """A file of rows, and how to read it."""

    path: Path
    options: ReadOptions = field(default_factory=ReadOptions)
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


def ending_of(path: Path) -> str:
    """`.jsonl` for `a.jsonl` and for `a.JSONL.gz`."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.suffix.lower()


def place_in_words(path: Path, line: int, item: int) -> str:
    """`a.csv:3`, `a.parquet: row 3` or `a.json:9 (row 3)`."""
    row = f"row {item}" if item else ""
    return f"{path}:{line}{f' ({row})' if row else ''}" if line else f"{path}: {row}"


def encoding_of(path: Path, options: ReadOptions) -> str | None:
    """The encoding of a text file if it is not UTF-8, by the options or by its byte order mark. May raise OSError."""
    if options.encoding is not None:
        return options.encoding
    with File(path).open() as stream:
        return declared_encoding(stream)


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
    is_guessed = False
    try:
        with file.open() as stream:
            encoding = file.options.encoding or declared_encoding(stream)
            if encoding is not None:
                if file.options.encoding is None:
                    file.say(f"{file.path}: read as {encoding} (it begins with a byte order mark)")
                yield from _recoded_lines(file, stream, encoding, faults)
                return
            for number, raw in enumerate(_raw_lines(stream, file.part), start=first):
                if number == 1 and (encoding := unmarked_wide_encoding(raw)):
                    faults.add(file.path, f"looks like {encoding}; {remedy(encoding)}")
                    return
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    place = f"byte {error.start + 1} of the line is 0x{error.object[error.start]:02x}"
                    guess = "" if is_guessed else _guessed_reading(file, raw)
                    is_guessed = True
                    yield number, raw.decode("utf-8", errors="replace"), f"not UTF-8 ({place}){guess}"
                    continue
                at = raw.find(b"\0")
                yield number, line, f"a NUL character (byte {at + 1} of the line)" if at >= 0 else None
    except OSError as error:
        faults.add(f"{file.path}:{number + 1}", f"cannot be read from here on ({error.strerror or error})")


def _guessed_reading(file: File, raw: bytes) -> str:
    """What the file may be encoded in, judged by its beginning, and how this line would then read; or nothing."""
    with file.open() as stream:
        lines = [line for line in stream.read(SAMPLE_BYTES).split(b"\n") if not line.isascii()]
        encoding = guessed_encoding(b"\n".join([*lines[:100], raw]))
    if encoding is None:
        return ""
    reading = raw.decode(encoding, errors="replace").strip()
    return f"; it looks like {encoding}, in which it reads {reading!r:.60}: {remedy(encoding)}"


def _recoded_lines(
    file: File, stream: BinaryIO, encoding: str, faults: Faults
) -> Iterator[tuple[int, str, str | None]]:
    """The same for a file that is not UTF-8; it is read as a whole."""
    number = 0
    try:
        text = io.TextIOWrapper(stream, encoding=encoding, newline="\n")
        for number, line in enumerate(text, start=1):
            line = line.removeprefix("\ufeff") if number == 1 else line
            at = line.find("\0")
            yield number, line, f"a NUL character (character {at + 1} of the line)" if at >= 0 else None
    except UnicodeError as error:
        faults.add(f"{file.path}:{number + 1}", f"not {encoding} from here on ({error}); set another encoding")


def _raw_lines(stream: BinaryIO, part: Part | None) -> Iterator[bytes]:
    if part is None:
        yield from stream
        return
    stream.seek(part.start)
    left = part.stop - part.start
    while left > 0 and (raw := stream.readline()):
        left -= len(raw)
        yield raw
