"""CSV and TSV: records of cells under the names in a header; an unusual separator is found out."""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice

from shardtune.counted import counted
from shardtune.rows.input_file import File, Record, checked_lines_of
from shardtune.rows.row_faults import Faults

SEPARATORS = (",", ";", "\t", "|")
LINES_LOOKED_AT, RECORDS_LOOKED_AT = 200, 50
_EXCEL = re.compile(r"sep=(.)", re.IGNORECASE)
"""The first line of a file from which Excel is to learn the separator."""

Line = tuple[int, str, str | None]
"""The number of a line, its text, and what is wrong with it or None."""


def read_csv(file: File, faults: Faults) -> Iterator[Record]:
    """Each record of a CSV file as a row, under the names in the header; a record may span several lines."""
    return _read(file, faults, ",")


def read_tsv(file: File, faults: Faults) -> Iterator[Record]:
    """The same for a file whose cells are separated by tabs."""
    return _read(file, faults, "\t")


def _read(file: File, faults: Faults, usual: str) -> Iterator[Record]:
    csv.field_size_limit(2**31 - 1)
    lines = checked_lines_of(file, faults)
    first_lines = list(islice(lines, LINES_LOOKED_AT))
    separator = file.options.separator
    if first_lines and (named := _EXCEL.fullmatch(first_lines[0][1].strip())):
        separator = separator or named[1]
        del first_lines[0]
    if separator is None:
        separator = _separator_of([text for _, text, _ in first_lines], usual)
        if separator != usual:
            file.say(f"{file.path}: columns are separated by {separator!r}")
    records = _Records(file, faults, chain(first_lines, lines), separator)
    header = _header(records, faults) if file.options.header else None
    if header is not None and not header:
        return
    extra_cells: list[int] = []
    for line, cells in records:
        header = header or [f"column_{number}" for number in range(1, len(cells) + 1)]
        cells = _fitted(cells, header, records.nameless)
        if len(cells) != len(header):
            what = f"{len(cells)} cells, but the header has" if file.options.header else f"{len(cells)} cells, not"
            faults.add(file.place(line), f"{what} {len(header)}: {_listed(header)}")
            continue
        values = {name: cell for name, cell in zip(header, cells, strict=True) if cell or name not in records.nameless}
        if records.nameless and len(values) > len(header) - len(records.nameless):
            extra_cells.append(line)
        yield Record(values, line)
    if extra_cells:
        file.say(
            f"{file.path}: {counted(len(extra_cells), 'row')} (from line {extra_cells[0]} on) with cells in columns "
            f"without a name, read as {', '.join(records.nameless)}"
        )


class _Records:
    """The well-formed records of a file, each with the number of its first line; adds the faults of the others."""

    def __init__(self, file: File, faults: Faults, lines: Iterable[Line], separator: str) -> None:
        self.file = file
        self.nameless: tuple[str, ...] = ()
        """What the columns without a name in the header are called."""
        self._faults = faults
        self._pulled: list[tuple[int, str | None]] = []
        self._reader = csv.reader(self._texts(lines), delimiter=separator, strict=True)
        self._is_over = False

    def _texts(self, lines: Iterable[Line]) -> Iterator[str]:
        for number, line, what in lines:
            self._pulled.append((number, what))
            yield line

    def next_cells(self) -> tuple[int, list[str], list[tuple[int, str]]] | None:
        """The first line of the next record, its cells (none if it is blank or malformed), and its faults by line."""
        self._pulled.clear()
        cells: list[str] = []
        wrong: list[tuple[int, str]] = []
        try:
            cells = next(self._reader)
        except StopIteration:
            return None
        except csv.Error as error:
            first, last = self._pulled[0][0], self._pulled[-1][0]
            wrong.append((first, _malformed(error, first, last)))
            if "unexpected end" in str(error):
                # The open quote may span the rest of the file, so this is not the fault of a single row.
                self._faults.add(f"{self.file.path}:{first}", wrong[0][1])
                return None
        wrong += [(number, what) for number, what in self._pulled if what is not None]
        return self._pulled[0][0], cells, wrong

    def __iter__(self) -> Iterator[tuple[int, list[str]]]:
        while (record := self.next_cells()) is not None:
            first, cells, wrong = record
            for number, what in wrong:
                self._faults.add(self.file.place(number, of_row=first), what)
            if cells and not wrong:
                yield first, cells


def _header(records: _Records, faults: Faults) -> list[str]:
    """The names of the columns; empty, and a fault of the whole file is added, if the header cannot be used.

    A column without a name is called by its number, and its empty cells are left out.
    """
    while (record := records.next_cells()) is not None:
        first, cells, wrong = record
        where = f"{records.file.path}:{wrong[0][0] if wrong else first}"
        if wrong:
            faults.add(where, f"in the header: {wrong[0][1]}")
            return []
        if not cells:
            continue
        names = [name.strip() or f"column_{number}" for number, name in enumerate(cells, start=1)]
        if len(set(names)) < len(names):
            faults.add(where, f"two columns of one name in the header: {_listed(names)}")
            return []
        records.nameless = tuple(name for name, cell in zip(names, cells, strict=True) if not cell.strip())
        return names
    return []


def _fitted(cells: list[str], header: Sequence[str], nameless: Collection[str]) -> list[str]:
    """The cells without blank ones beyond the header, and with blank ones for columns without a name at the end."""
    while len(cells) > len(header) and not cells[-1].strip():
        cells = cells[:-1]
    missing = header[len(cells) :]
    return [*cells, *("" for _ in missing)] if all(name in nameless for name in missing) else cells


def _separator_of(lines: Sequence[str], usual: str) -> str:
    """The separator of a file that begins with these lines: the usual one, unless it does not divide them into equally
    many cells, and exactly one other does."""
    if _num_columns(lines, usual) > 1:
        return usual
    others = [separator for separator in SEPARATORS if separator != usual and _num_columns(lines, separator) > 1]
    return others[0] if len(others) == 1 else usual


def _num_columns(lines: Sequence[str], separator: str) -> int:
    """How many cells each of the first records has; 0 if their numbers differ or one is malformed."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    widths = set()
    try:
        for cells in islice((cells for cells in reader if cells), RECORDS_LOOKED_AT):
            widths.add(len(cells))
    except csv.Error as error:
        if "unexpected end" not in str(error) or len(lines) < LINES_LOOKED_AT:  # or a record goes on beyond the lines
            return 0
    return widths.pop() if len(widths) == 1 else 0


def _malformed(error: csv.Error, first: int, last: int) -> str:
    where = f", over lines {first} to {last}" if last > first else ""
    return f"malformed ({error}{where}); a cell that contains a quote must be quoted, and the quote doubled"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(name[:60] for name in names[:20])
