"""The file formats: each is one function and one line in FORMATS."""

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from shardtune.rows.input_file import File, ReadOptions, Record, checked_lines_of, ending_of
from shardtune.rows.readers.conll import looks_like_conll, read_conll
from shardtune.rows.readers.json_rows import read_json, read_json_lines
from shardtune.rows.readers.parallel_text import read_aligned, read_tmx, sides_of
from shardtune.rows.readers.separated import read_csv, read_tsv
from shardtune.rows.readers.tables import read_arrow, read_parquet
from shardtune.rows.row_faults import Faults

Reader = Callable[[File, Faults], Iterator[Record]]
"""Yields the rows of a file; adds its faults. May raise OSError."""
LINES_LOOKED_AT = 50


class Format(NamedTuple):
    """A file format."""

    read: Reader
    endings: tuple[str, ...]
    """How names of such files end, in lower case."""
    has_word_a_line: bool = False


def read_file(file: File, faults: Faults) -> Iterator[Record]:
    """The rows of a file of a known format; adds its faults."""
    try:
        if sides_of(file.path):
            yield from read_aligned(file, faults)
            return
        name = format_of(file.path, file.options)
        if name is None:
            faults.add(file.path, f"unknown format; {LEGAL_FORMATS}")
            return
        if file.options.format is None and name != ENDINGS.get(ending_of(file.path)):
            file.say(f"{file.path}: read as {name}, judging by its content (set format in the source to change it)")
        format_ = FORMATS[name]
        for record in format_.read(file, faults):
            yield record._replace(has_word_a_line=True) if format_.has_word_a_line else record
    except OSError as error:
        faults.add(file.path, f"cannot be read ({error.strerror or error})")


def _read_text(file: File, faults: Faults) -> Iterator[Record]:
    """Each line, paragraph or whole file as `text`; blank ones are not rows."""
    lines: list[str] = []
    first, is_sound = 0, True

    def rows() -> Iterator[Record]:
        if lines and is_sound:
            yield Record({"text": "".join(lines).rstrip("\r\n")}, first)

    for number, line, what in checked_lines_of(file, faults):
        is_blank = what is None and not line.strip()
        if file.options.text_unit == "line" or (is_blank and file.options.text_unit == "paragraph"):
            yield from rows()
            lines.clear()
        if is_blank and not lines:
            continue
        if not lines:
            first, is_sound = number, True
        lines.append(line)
        if what is not None:
            is_sound = False
            faults.add(file.place(number, of_row=first), what)
    yield from rows()


FORMATS: dict[str, Format] = {
    "jsonl": Format(read_json_lines, (".jsonl", ".ndjson")),
    "csv": Format(read_csv, (".csv",)),
    "tsv": Format(read_tsv, (".tsv",)),
    "json": Format(read_json, (".json",)),
    "parquet": Format(read_parquet, (".parquet",)),
    "arrow": Format(read_arrow, (".arrow",)),
    "text": Format(_read_text, (".txt",)),
    "conll": Format(read_conll, (".conll", ".bio", ".iob", ".iob2", ".conllu"), has_word_a_line=True),
    "tmx": Format(read_tmx, (".tmx",)),
}
ENDINGS: dict[str, str] = {ending: name for name, format_ in FORMATS.items() for ending in format_.endings}


LEGAL_FORMATS = f"set format in the source to one of: {', '.join(FORMATS)}"


def format_of(path: Path, options: ReadOptions) -> str | None:
    """The format of a file: the one that the options name, or that of its ending, or else what its content looks like;
    None if it looks like none. Text files may hold columns of words where the task reads such.

    Raises OSError if it has to be looked at and cannot be read.
    """
    if options.format is not None:
        return options.format
    name = ENDINGS.get(ending_of(path))
    if options.text_files == "words" and name in ("text", "tsv", None) and looks_like_conll(_first_lines(path)):
        return "conll"
    return name or _sniffed(path)


def checked_format(name: str) -> str:
    """The name, if it is that of a format. Raises ValueError."""
    if name not in FORMATS:
        raise ValueError(f"unknown format {name!r}; legal: {', '.join(FORMATS)}")
    return name


def is_separated(path: Path) -> bool:
    """Whether the file, by its ending, has records of cells, whose header may be missing."""
    return ENDINGS.get(ending_of(path)) in ("csv", "tsv")


def _sniffed(path: Path) -> str | None:
    start = next((line.lstrip() for line in _first_lines(path) if line.strip()), "")
    if start.startswith("{") and start.rstrip().endswith("}"):
        return "jsonl"
    return "json" if start.startswith(("[", "{")) else None


def _first_lines(path: Path) -> list[str]:
    with File(path).open() as stream:
        return [line.decode("utf-8-sig", errors="replace") for line in islice(stream, LINES_LOOKED_AT)]
