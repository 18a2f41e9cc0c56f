"""Rows in a folder where every rank of a command finds them."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from shardtune.rows.source import Row
from shardtune.trainer.data.prepare.row_pieces import ROWS_AT_ONCE, load_chunk, store_chunk

ROWS = "rows.jsonl"


def write_rows_of(folder: Path, rows: Sequence[Row]) -> None:
    """Writes the rows into the folder, with the place of each."""
    with (folder / ROWS).open("wb") as file:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            for path, of_file in groupby(rows[start : start + ROWS_AT_ONCE], key=lambda row: row.path):
                chunk = [({**row.values}, row.line, row.item, row.has_word_a_line) for row in of_file]
                store_chunk(file, path, chunk)


def read_rows_of(folder: Path) -> list[Row]:
    """The rows that write_rows_of has written, in order."""
    rows: list[Row] = []
    path_of_rows = folder / ROWS
    size = path_of_rows.stat().st_size
    with path_of_rows.open("rb") as file:
        while file.tell() < size:
            path, chunk = load_chunk(file)
            rows += [
                Row(values, path, line, item=item, has_word_a_line=has_word_a_line)
                for values, line, item, has_word_a_line in chunk
            ]
    return rows
