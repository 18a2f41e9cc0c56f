"""What a row is, and how the rows of a source are read under shardtune's column names."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.rows.columns import ColumnNames, Synonyms, guess, names_of, rename
from shardtune.rows.formats import is_separated, read_file
from shardtune.rows.hub import read_dataset
from shardtune.rows.input_file import File, ReadOptions, Record, TextUnit, place_in_words
from shardtune.rows.row_faults import BadRowsError, Faults, RowLocation
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import FindError, files_in_words, find_source, is_dataset
from shardtune.section import TextFiles

__all__ = ["BadRowsError", "Faults", "Row", "RowLocation", "read_rows", "read_source", "require_columns"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the user wrote it, under shardtune's column names."""

    values: Mapping[str, Any]
    path: Path
    line: int
    """The line on which the row begins, from 1; 0 in files without lines."""
    source: int = 0
    """The number of the row's source among all sources of the recipe; those of train come first."""
    item: int = 0
    """The row's number in its file, from 1; 0 where the line is enough to find it."""
    file_columns: tuple[str, ...] = ()
    """The columns as the file names them, in the file's order; empty if `values` has them under these names."""
    has_word_a_line: bool = False
    """Whether each of its words is on a line of its own, from `line` on."""

    def __str__(self) -> str:
        return self.place

    @property
    def columns(self) -> tuple[str, ...]:
        """The row's columns as its file names them, in the file's order."""
        return self.file_columns or tuple(self.values)

    @property
    def key(self) -> Hashable:
        """Identifies the row among all rows."""
        return self.source, self.path, self.line, self.item

    @property
    def place(self) -> RowLocation:
        """Where the row is, for messages."""
        return self._at(self.line)

    def word(self, at: int) -> RowLocation:
        """Where word number `at` of the row is, counted from 0."""
        return self._at(self.line + (at if self.has_word_a_line else 0))

    def _at(self, line: int) -> RowLocation:
        return RowLocation(place_in_words(self.path, line, self.item), self.key)


def read_rows(
    path: Path,
    columns: ColumnNames,
    synonyms: Synonyms | None = None,
    say: Callable[[str], None] = lambda _: None,
    *,
    options: ReadOptions | None = None,
) -> list[Row]:
    """Return all rows of the path, their columns renamed by `columns` (ours -> the data's).

    With `synonyms`, missing columns are guessed, and `say` is told. Raises DataError with every malformed row, or if
    there are no rows.
    """
    faults = Faults()
    source = SourceConfig(path=str(path)).model_copy(update={"columns": dict(columns)})
    rows = list(read_source(source, faults, synonyms=synonyms or {}, options=options, say=say))
    faults.raise_if_any()
    return rows


def read_options(source: SourceConfig, *, text_unit: TextUnit = "line", text_files: TextFiles = "text") -> ReadOptions:
    """How the files of a source are read."""
    return ReadOptions(
        format=source.format,
        encoding=source.encoding,
        header=source.header,
        separator=source.separator,
        text_unit=text_unit,
        text_files=text_files,
    )


def read_source(
    source: SourceConfig,
    faults: Faults,
    *,
    number: int = 0,
    split: str = "train",
    synonyms: Synonyms,
    options: ReadOptions | None = None,
    say: Callable[[str], None],
) -> list[Row]:
    """Return the rows of a source whose `columns` are resolved. Adds to `faults`, and tells `say` what it chose."""
    records = list(_records(source, faults, split=split, options=options or read_options(source), say=say))
    file_columns = dict.fromkeys(name for _, record in records for name in record.values)
    columns = choose_columns(source, file_columns, len(records), faults, synonyms=synonyms, say=say)
    return [row_of(record, path, columns, number=number) for path, record in records]


def row_of(record: Record, path: Path, columns: ColumnNames, *, number: int) -> Row:
    """The record as a row of source `number`. Renames its columns in place by `columns` (ours -> the data's)."""
    file_columns = tuple(record.values) if columns else ()
    if columns:
        rename(record.values, columns)
    return Row(record.values, path, record.line, number, record.item, file_columns, record.has_word_a_line)


def choose_columns(
    source: SourceConfig,
    file_columns: Collection[str],
    num_rows: int,
    faults: Faults,
    *,
    synonyms: Synonyms,
    say: Callable[[str], None],
) -> dict[str, str | Sequence[str]]:
    """Return ours -> the data's, for a source whose rows have these `file_columns`. Adds to `faults`, and tells `say`
    what is guessed."""
    if not num_rows and not faults:
        faults.add(source.path, "contains no rows")
    columns: dict[str, str | Sequence[str]] = dict(source.columns or {})
    for ours, in_data in columns.items():
        for name in names_of(in_data) if num_rows else ():
            if name not in file_columns and (ours not in file_columns or not isinstance(in_data, str)):
                faults.add(
                    source.path, f"data.columns.{ours}: no row has a column {name!r}; found: {', '.join(file_columns)}"
                )
    guesses = guess(file_columns, synonyms, columns)
    if guesses:
        used = ", ".join(f"{in_data} as {ours}" for ours, in_data in guesses.items())
        say(f"using column {used} (a guess; set data.columns to change it)")
    return {**columns, **guesses}


@dataclass(frozen=True, slots=True)
class SourceColumns:
    """The columns that rows of one source have; dicts for their order."""

    path: Path
    """The file of the first of these rows."""
    ours: dict[str, None]
    """Under our names."""
    in_file: dict[str, None]
    """As the files name them."""

    def update(self, other: SourceColumns) -> None:
        self.ours.update(other.ours)
        self.in_file.update(other.in_file)


Columns = dict[int, SourceColumns]
"""The columns that rows have, by the number of their source."""


def columns_of(rows: Iterable[Row]) -> Columns:
    """The columns of these rows."""
    columns: Columns = {}
    for row in rows:
        of_source = columns.setdefault(row.source, SourceColumns(row.path, {}, {}))
        of_source.ours.update(dict.fromkeys(row.values))
        of_source.in_file.update(dict.fromkeys(row.columns))
    return columns


def require_columns(parts: Iterable[Columns], wanted: Sequence[str]) -> None:
    """Raises DataError if no row of a source has a wanted column. A gap in a single row is for the task to report."""
    merged: Columns = {}
    for part in parts:
        for number, columns in part.items():
            merged.setdefault(number, SourceColumns(columns.path, {}, {})).update(columns)
    faults = Faults()
    for columns in merged.values():
        if missing := [name for name in wanted if name not in columns.ours]:
            what = f"no column{'s' * (len(missing) > 1)} {', '.join(map(repr, missing))}"
            in_file = list(columns.in_file)
            is_row = is_separated(columns.path) and any(len(name.split()) > 3 or name.isdigit() for name in in_file)
            remedy = _remedy(missing, in_file, is_row=is_row)
            faults.add(columns.path, f"{what}; found: {', '.join(in_file)}. {remedy}")
    faults.raise_if_any()


def _remedy(missing: Sequence[str], in_file: Sequence[str], *, is_row: bool) -> str:
    """What to do about columns that are missing from a file with these, whose header seems to be a row or not."""
    if len(in_file) == 1 and (mark := next((mark for mark in ";\t|" if mark in in_file[0]), None)) is not None:
        return f"If {mark!r} separates the columns, set separator: {mark!r} in the source"
    header = " Line 1 was read as the header; if it is a row, set header: false in the source" if is_row else ""
    return f"Name yours: data.columns={{{', '.join(f'{name}: …' for name in missing)}}}.{header}".removesuffix(".")


def _records(
    source: SourceConfig, faults: Faults, *, split: str, options: ReadOptions, say: Callable[[str], None]
) -> Iterator[tuple[Path, Record]]:
    """The records of a source, each with its file."""
    try:
        if is_dataset(source.path):
            yield from read_dataset(source, split, faults, say)
            return
        found = find_source(source.path, options)
    except FindError as error:
        faults.add(error.where, error.what)
        return
    if text := files_in_words(found):
        say(text)
    for path in found.files:
        for record in read_file(File(path, found.options, say), faults):
            yield path, labeled(record, found.labels.get(path))


def labeled(record: Record, label: str | None) -> Record:
    """The record with the label that its file has by its folder, if there is one."""
    return record if label is None else record._replace(values={**record.values, "label": label})


NO_TEXT = re.compile("[\x00\ud800-\udfff]")
"""NUL, which results from UTF-16 and binary files; and halves of surrogate pairs, which JSON can express but UTF-8
cannot."""


def shown(value: Any) -> str:
    """The beginning of a value for a message; null as data have it."""
    return "null" if value is None else f"{value!r:.60}"


def check_text(row: Row, column: str, faults: Faults) -> None:
    """Add a fault if the column is not a non-blank text."""
    text = row.values.get(column)
    if not isinstance(text, str):
        faults.add(row, f"{column}: expected a text, got {shown(text)}" if column in row.values else f"no {column}")
    elif not text.strip():
        faults.add(row, f"{column} is empty")
    elif bad := NO_TEXT.search(text):
        faults.add(row, f"{column}: character {bad.start() + 1} is U+{ord(bad.group()):04X}, which no text may have")
