"""Labeled rows, and their examples, in a folder where every rank of an evaluation finds them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from shardtune.counted import counted
from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.source import Row
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.data.prepare.example_shards import Split, write_index
from shardtune.trainer.data.prepare.prepare import encoder_of
from shardtune.trainer.data.prepare.row_pieces import ROWS_AT_ONCE, load_chunk, store_chunk
from shardtune.trainer.tasks import Task

ROWS, INDEX, NAME = "rows.jsonl", "index.json", "data"


@dataclass(frozen=True)
class StoredRows:
    """Rows and examples in a folder."""

    folder: Path
    num_rows: int
    split: Split

    def share(self, rank: int, world_size: int) -> Iterator[tuple[int, Row]]:
        """The rows of a rank with their numbers, in order: each row belongs to one rank."""
        number = 0
        with (self.folder / ROWS).open("rb") as file:
            while number < self.num_rows:
                path, chunk = load_chunk(file)
                for values, line, item, has_word_a_line in chunk:
                    if number % world_size == rank:
                        yield number, Row(values, path, line, item=item, has_word_a_line=has_word_a_line)
                    number += 1


def store_rows(rows: Sequence[Row], recipe: Recipe, task: Task, folder: Path, say: Callable[[str], None]) -> StoredRows:
    """Encodes the rows, and writes both into the folder. `say` is called with what is truncated and dropped.

    Raises DataError if nothing in the rows can be evaluated.
    """
    chunks = (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
    written = encoder_of(recipe, task).write(folder, NAME, chunks)
    if not written.num_targets.any():
        raise DataError(
            f"{rows[0].path}: no targets are left in {counted(len(rows), 'row')}; rows without labels, or replies, can "
            "only be predicted (shardtune predict)"
        )
    if written.num_truncated:
        say(f"{counted(written.num_truncated, 'row')} truncated to data.max_tokens ({recipe.data.max_tokens})")
    if written.num_dropped:
        say(f"{counted(written.num_dropped, 'row')} dropped: no targets were left in them")
    if written.faults:
        first = "\n  ".join(written.faults.first)
        say(f"{counted(written.faults.num_rows, 'row')} skipped (data.on_bad_row): they cannot be encoded:\n  {first}")
    write_index(folder, NAME, [written], [0])
    with (folder / ROWS).open("wb") as file:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            for path, of_file in groupby(rows[start : start + ROWS_AT_ONCE], key=lambda row: row.path):
                chunk = [({**row.values}, row.line, row.item, row.has_word_a_line) for row in of_file]
                store_chunk(file, path, chunk)
    write_atomically(folder / INDEX, json.dumps({"num_rows": len(rows), "shards": written.shards}))
    return open_rows(folder)


def open_rows(folder: Path) -> StoredRows:
    """The rows that were stored in the folder."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    shards = [(name, count) for name, count in index["shards"]]
    return StoredRows(folder, index["num_rows"], Split(folder, NAME, shards))
