"""Labeled rows, and their examples, in a folder where every rank of an evaluation finds them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.counted import counted
from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.source import Row
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.commands.inference.row_file import read_rows_of, write_rows_of
from shardtune.trainer.data.prepare.example_shards import Split, write_index
from shardtune.trainer.data.prepare.prepare import encoder_of
from shardtune.trainer.data.prepare.row_pieces import ROWS_AT_ONCE
from shardtune.trainer.tasks import Task

INDEX, NAME = "index.json", "data"


@dataclass(frozen=True)
class StoredRows:
    """Rows and examples in a folder."""

    folder: Path
    num_rows: int
    split: Split
    facts: Mapping[str, Any]
    """What the task has to know to count them."""

    def rows(self) -> list[Row]:
        """The rows, in order."""
        return read_rows_of(self.folder)


def store_rows(
    rows: Sequence[Row],
    facts: Mapping[str, Any],
    recipe: Recipe,
    task: Task,
    folder: Path,
    say: Callable[[str], None],
) -> StoredRows:
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
    write_rows_of(folder, rows)
    write_atomically(folder / INDEX, json.dumps({"num_rows": len(rows), "shards": written.shards, "facts": facts}))
    return open_rows(folder)


def open_rows(folder: Path) -> StoredRows:
    """The rows that were stored in the folder."""
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    shards = [(name, count) for name, count in index["shards"]]
    return StoredRows(folder, index["num_rows"], Split(folder, NAME, shards), index["facts"])
