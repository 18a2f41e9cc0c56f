"""Files -> rows, each knowing its file and line, so that every complaint can say where.

A new format is one function and one line in READERS.
"""

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the user wrote it, under our column names."""

    values: Mapping[str, Any]
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"

    def word(self, at: int) -> str:
        """Where the row's word number `at` is, counted from 0."""
        return f"{self.path}:{self.line + (at if self.path.suffix.lower() in WORD_A_LINE else 0)}"


class Faults:
    """Collects what is wrong, so that all of it is said at once; the first `shown` in full, the rest counted."""

    def __init__(self, shown: int = 10) -> None:
        self._shown = shown
        self._faults: list[str] = []
        self._num_faults = 0

    def add(self, where: object, what: str) -> None:
        self._num_faults += 1
        if len(self._faults) < self._shown:
            self._faults.append(f"{where}: {what}")

    def __bool__(self) -> bool:
        return self._num_faults > 0

    def raise_if_any(self) -> None:
        """Raises DataError if anything was added."""
        if not self._faults:
            return
        more = self._num_faults - len(self._faults)
        raise DataError("\n".join([*self._faults, *([f"… and {more:,} more"] if more else [])]))


def read_rows(path: Path, columns: Mapping[str, str]) -> list[Row]:
    """All rows of a file, its columns renamed to ours by `columns` (ours -> the file's).

    Raises DataError with every malformed line, or if the file is missing, empty or of an unknown format.
    """
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown format {path.suffix or '(no suffix)'!r}; legal: {', '.join(READERS)}")
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    renamed = {theirs: ours for ours, theirs in columns.items()}
    faults = Faults()
    rows = [
        Row({renamed.get(name, name): value for name, value in values.items()}, path, line)
        for line, values in reader(path, faults)
    ]
    faults.raise_if_any()
    if not rows:
        raise DataError(f"{path}: no rows in it")
    for ours, theirs in columns.items():
        if not any(ours in row.values for row in rows):
            found = ", ".join(sorted({name for row in rows[:1000] for name in row.values}))
            raise DataError(f"{path}: data.columns.{ours}: no row has a column {theirs!r}; found: {found}")
    return rows


def require_columns(rows: Sequence[Row], wanted: Sequence[str]) -> None:
    """Raises DataError if a column is in no row at all; a single row's gap is its task's to name."""
    path = rows[0].path
    found = sorted({name for row in rows for name in row.values})
    faults = Faults()
    for name in wanted:
        if name not in found:
            faults.add(path, f"no column {name!r}; found: {', '.join(found)}. Name yours: data.columns={{{name}: …}}")
    faults.raise_if_any()


def _lines(path: Path, faults: Faults) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                faults.add(
                    f"{path}:{number}", f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x})"
                )


def _read_jsonl(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in _lines(path, faults):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            faults.add(f"{path}:{number}", f"not JSON ({error})")
            continue
        if isinstance(values, dict):
            yield number, values
        else:
            faults.add(f"{path}:{number}", f'expected an object such as {{"text": …}}, got {type(values).__name__}')


def _read_separated(delimiter: str) -> Callable[[Path, Faults], Iterator[tuple[int, dict[str, Any]]]]:
    def read(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader((line for _, line in _lines(path, faults)), delimiter=delimiter, strict=True)
        header: list[str] = []
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                faults.add(f"{path}:{line}", f"malformed ({error})")
                return
            if not cells:
                continue
            if not header:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    faults.add(f"{path}:{line}", f"two columns of one name in the header: {', '.join(header)}")
                    return
            elif len(cells) != len(header):
                faults.add(f"{path}:{line}", f"{len(cells)} cells under a header of {len(header)}: {', '.join(header)}")
            else:
                yield line, dict(zip(header, cells, strict=True))

    return read


def _read_conll(path: Path, faults: Faults) -> Iterator[tuple[int, dict[str, Any]]]:
    """A word a line, with its columns; sentences end at blank lines and at -DOCSTART-."""
    first_line, sentence = 0, list[list[str]]()
    width = 0
    for number, line in _lines(path, faults):
        line = line.rstrip("\r\n")
        cells = line.split("\t") if "\t" in line else [cell for cell in line.split(" ") if cell]
        if not line.strip() or cells[0] == "-DOCSTART-":
            if sentence:
                yield first_line, _columns(sentence)
                sentence = []
            continue
        width = width or len(cells)
        if len(cells) != width:
            faults.add(f"{path}:{number}", f"{len(cells)} columns, where the file's first word has {width}")
            continue
        if not sentence:
            first_line = number
        sentence.append(cells)
    if sentence:
        yield first_line, _columns(sentence)


def _columns(sentence: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The first column as `tokens`, the last as `tags`, and those between as `column_2` and so on."""
    tokens, *others = (list(column) for column in zip(*sentence, strict=True))
    between = {f"column_{number}": column for number, column in enumerate(others[:-1], start=2)}
    return {"tokens": tokens, **({"tags": others[-1]} if others else {}), **between}


WORD_A_LINE = frozenset({".conll", ".bio"})
READERS: dict[str, Callable[[Path, Faults], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_separated(","),
    ".tsv": _read_separated("\t"),
    ".conll": _read_conll,
    ".bio": _read_conll,
}
