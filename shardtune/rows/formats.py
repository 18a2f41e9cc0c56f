"""The file formats: each is one function and one line in READERS."""

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from shardtune.rows.conll import read_conll
from shardtune.rows.input_file import File, Record, checked_lines_of, format_of
from shardtune.rows.json_rows import read_json, read_json_lines
from shardtune.rows.parallel_text import read_aligned, read_tmx, sides_of
from shardtune.rows.row_faults import Faults
from shardtune.rows.tables import read_arrow, read_parquet

Reader = Callable[[File, Faults], Iterator[Record]]
"""Yields the rows of a file; adds its faults. May raise OSError."""


def read_file(file: File, faults: Faults) -> Iterator[Record]:
    """The rows of a file of a known format; adds its faults."""
    try:
        yield from reader_of(file.path)(file, faults)
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
        if file.text_unit == "line" or (is_blank and file.text_unit == "paragraph"):
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


def _read_separated(delimiter: str) -> Reader:
    def read(file: File, faults: Faults) -> Iterator[Record]:
        """Each record as a row, under the names in the header; a record may span several lines."""
        csv.field_size_limit(2**31 - 1)
        pulled: list[tuple[int, str | None]] = []

        def lines() -> Iterator[str]:
            for number, line, what in checked_lines_of(file, faults):
                pulled.append((number, what))
                yield line

        reader = csv.reader(lines(), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            pulled.clear()
            wrong: list[tuple[int, str]] = []
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                cells = []
                wrong.append((pulled[0][0], _malformed(error, pulled[0][0], pulled[-1][0])))
                if "unexpected end" in str(error):
                    # The open quote may span the rest of the file, so this is not the fault of a single row.
                    faults.add(f"{file.path}:{wrong[0][0]}", wrong[0][1])
                    return
            first = pulled[0][0]
            wrong += [(number, what) for number, what in pulled if what is not None]
            if not header:
                if wrong:
                    faults.add(f"{file.path}:{wrong[0][0]}", f"{wrong[0][1]}, in the header")
                    return
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    faults.add(f"{file.path}:{first}", f"two columns of one name in the header: {_listed(header)}")
                    return
                continue
            if cells and not wrong and len(cells) != len(header):
                wrong.append((first, f"{len(cells)} cells, but the header has {len(header)}: {_listed(header)}"))
            for number, what in wrong:
                faults.add(file.place(number, of_row=first), what)
            if cells and not wrong:
                yield Record(dict(zip(header, cells, strict=True)), first)

    return read


def _malformed(error: csv.Error, first: int, last: int) -> str:
    where = f", over lines {first} to {last}" if last > first else ""
    return f"malformed ({error}{where}); a cell that contains a quote must be quoted, and the quote doubled"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:20])


WORD_A_LINE = frozenset({".conll", ".bio"})

READERS: dict[str, Reader] = {
    ".jsonl": read_json_lines,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".json": read_json,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": _read_text,
    ".conll": read_conll,
    ".bio": read_conll,
    ".tmx": read_tmx,
}


def reader_of(path: Path) -> Reader:
    """Return the reader of the path's format. Raises KeyError if the format is unknown."""
    return read_aligned if sides_of(path) else READERS[format_of(path)]
