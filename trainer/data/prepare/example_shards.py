"""Encoded examples on the disk: Arrow files that are memory-mapped, and beside them an index of all examples.

The index has the length, the targets and the source of each example, so that the order of a training and the
distribution of its rows to ranks are decided without opening a shard.
"""

import json
import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.rows.input_file import place_in_words
from shardtune.rows.row_faults import FAULT_CLASSES, BadRowsError, Faults
from shardtune.rows.source import Row
from shardtune.run_dir.files import published, write_atomically
from shardtune.trainer.tasks.example import NOTED, TRUNCATED, Example
from shardtune.trainer.tasks.task import Task

SHARD_BYTES = 1 << 26
"""A shard is closed when it reaches this length, which is also what a process holds of the one that it is writing."""
PART_KEY = 2**32
"""Of the draws that choose a part of the rows; no train.seed, so that they are not those of an epoch's order."""


@dataclass
class Written:
    """The examples written for some rows of one split, and their counts."""

    shards: list[tuple[str, int]]
    """The names of the files, and how many examples each has."""
    lengths: NDArray[np.int32]
    num_targets: NDArray[np.float64]
    num_rows: int
    num_dropped: int
    num_truncated: int
    faults: Faults
    """The faults of rows that were skipped."""
    files: list[str]
    """The files that the rows are from."""
    places: NDArray[np.int32]
    """For the row of each example, the number of its file, its line and its item; shape (examples, 3)."""
    num_tokens_truncated: int = 0
    noted: Counter[str] = field(default_factory=Counter)
    """What the examples noted, summed."""


WRITTEN_CLASSES = (Written, *FAULT_CLASSES)
"""The classes in a Written, for who stores it."""


class Encoder:
    """Writes the examples of rows into shards."""

    def __init__(self, task: Task, max_tokens: int, *, are_bad_skipped: bool) -> None:
        self._task, self._max_tokens, self._are_bad_skipped = task, max_tokens, are_bad_skipped

    def write(self, folder: Path, name: str, chunks: Iterable[Sequence[Row]]) -> Written:
        """Writes the examples of all chunks into files whose names begin with `name`. Raises BadRowsError."""
        lengths: list[int] = []
        num_targets: list[float] = []
        shards: list[tuple[str, int]] = []
        faults = Faults()
        files: dict[str, int] = {}
        places: list[tuple[int, int, int]] = []
        noted = Counter[str]()
        num_rows = num_dropped = num_truncated = num_tokens_truncated = 0
        pending: list[pa.Table] = []
        for rows in chunks:
            num_rows += len(rows)
            num_bad = faults.num_rows
            by_row = self.encode(rows, faults)
            num_dropped += sum(not examples for examples in by_row) - (faults.num_rows - num_bad)
            chunk = [example for examples in by_row for example in examples]
            lost = [example.pop(TRUNCATED, 0) for example in chunk]
            num_truncated += sum(map(bool, lost))
            num_tokens_truncated += sum(lost)
            for example in chunk:
                noted.update(example.pop(NOTED, {}))
            lengths += map(self._task.num_tokens, chunk)
            num_targets += map(self._task.num_targets, chunk)
            example_rows = (row for row, examples in zip(rows, by_row, strict=True) for _ in examples)
            places += ((files.setdefault(str(row.path), len(files)), row.line, row.item) for row in example_rows)
            if chunk:
                pending.append(_table(chunk))
            if sum(table.nbytes for table in pending) > SHARD_BYTES:
                shards.append(_write(pending, folder, f"{name}-{len(shards):03}.arrow"))
                pending = []
        if pending:
            shards.append(_write(pending, folder, f"{name}-{len(shards):03}.arrow"))
        return Written(
            shards,
            np.array(lengths, dtype=np.int32),
            np.array(num_targets, dtype=np.float64),
            num_rows,
            num_dropped,
            num_truncated,
            faults,
            list(files),
            np.array(places, dtype=np.int32).reshape(-1, 3),
            num_tokens_truncated,
            noted,
        )

    def encode(self, rows: Sequence[Row], faults: Faults) -> list[list[Example]]:
        """The examples of each row; none for bad rows that are skipped, whose faults are added.

        Raises BadRowsError if bad rows may not be skipped.
        """
        if not rows:
            return []
        try:
            by_row = self._task.encode(rows, self._max_tokens, labeled=True)
            empty = Faults()
            for row, examples in zip(rows, by_row, strict=True):
                if any(self._task.num_tokens(example) == 0 for example in examples):
                    empty.add(row, "the tokenizer gives no tokens for it")
            empty.raise_if_any()
            return by_row
        except BadRowsError as error:
            bad = error.faults.rows
            is_good = [row.key not in bad for row in rows]
            if not self._are_bad_skipped or not error.faults.are_rows_alone or all(is_good):
                raise
            faults.update(error.faults)
        encoded = iter(self.encode([row for row, good in zip(rows, is_good, strict=True) if good], faults))
        return [next(encoded) if good else [] for good in is_good]


def _table(examples: Sequence[Example]) -> pa.Table:
    # By name: from_pylist would drop columns that the first example lacks.
    names = sorted({name for example in examples for name in example})
    return pa.table({name: _column([example.get(name) for example in examples]) for name in names})


def _column(values: Sequence[Any]) -> pa.Array:
    """The values as an Arrow array; lists of integers in 32 bits if they fit, which halves the size of a token."""
    numbers = array("i")
    try:
        for value in values:
            numbers.fromlist(value)  # half of Arrow's time, and it refuses anything but integers
    except (TypeError, OverflowError):
        return pa.array(values)
    ends = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(np.array(numbers, dtype=np.int32)))


def _write(tables: Sequence[pa.Table], folder: Path, name: str) -> tuple[str, int]:
    table = pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    with published(folder / name) as path, pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)
    return name, len(table)


def write_index(folder: Path, name: str, parts: Sequence[Written], sources: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Writes the index of a split beside its shards, and returns its arrays by their kinds.

    `parts` are what was written of each piece of its rows, `sources` the number of each piece's source.
    """
    files: dict[str, int] = {}
    arrays: dict[str, NDArray[Any]] = {
        "lengths": np.concatenate([part.lengths for part in parts]),
        "num_targets": np.concatenate([part.num_targets for part in parts]),
        "sources": np.repeat(np.array(sources, dtype=np.int32), [len(part.lengths) for part in parts]),
        "places": np.concatenate([_renumbered(part, files) for part in parts]),
    }
    for kind, values in arrays.items():
        np.save(folder / f"{name}.{kind}.npy", values)
    write_atomically(folder / f"{name}.files.json", json.dumps(list(files), ensure_ascii=False))
    return arrays


def _renumbered(written: Written, files: dict[str, int]) -> NDArray[np.int32]:
    """The places of some examples, their files numbered as in `files`, to which new ones are added."""
    numbers = np.array([files.setdefault(file, len(files)) for file in written.files], dtype=np.int32)
    places = written.places.copy()
    if len(places):
        places[:, 0] = numbers[places[:, 0]]
    return places


@dataclass(frozen=True, eq=False)
class Split:
    """The prepared examples of one split, memory-mapped."""

    folder: Path
    name: str
    shards: Sequence[tuple[str, int]]
    """The names of the files, and how many examples each has."""

    @cached_property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example; shape (examples,)."""
        return self._array("lengths")

    @cached_property
    def num_targets(self) -> NDArray[np.float64]:
        """Targets of each example, or the sum of their weights; shape (examples,)."""
        return self._array("num_targets")

    @cached_property
    def sources(self) -> NDArray[np.int32]:
        """The number of the source of each example, in the order of the recipe; shape (examples,)."""
        return self._array("sources")

    def place(self, row: int) -> str:
        """Where the row of an example was written, such as `train.jsonl:12`."""
        file, line, item = self._places[row].tolist()
        return place_in_words(Path(self._files[file]), line, item)

    @cached_property
    def row_of_example(self) -> NDArray[np.int64]:
        """The number of the row of each example, counted from 0 in the order of the examples; shape (examples,).

        The windows of a long row are neighbors.
        """
        is_new = np.any(self._places[1:] != self._places[:-1], axis=1)
        return np.concatenate([np.zeros(min(1, len(self._places)), dtype=np.int64), np.cumsum(is_new)])

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        """The examples of these numbers, in this order."""
        return [self._example(row) for row in rows.tolist()]

    def _example(self, row: int) -> Example:
        shard = bisect_right(self._starts, row) - 1
        columns = self._opened.get(shard)
        if columns is None:
            columns = self._opened[shard] = _open(self.folder / self.shards[shard][0])
        at = row - self._starts[shard]
        return {name: value(at) for name, value in columns.items()}

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        return self._array("places")

    def _array(self, kind: str) -> NDArray[Any]:
        path = self.folder / f"{self.name}.{kind}.npy"
        try:
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise damaged(path, error) from error
        return array

    @cached_property
    def _files(self) -> list[str]:
        files: list[str] = json.loads((self.folder / f"{self.name}.files.json").read_text(encoding="utf-8"))
        return files

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((count for _, count in self.shards[:-1]), initial=0))

    @cached_property
    def _opened(self) -> dict[int, dict[str, Callable[[int], Any]]]:
        return {}

    def __len__(self) -> int:
        return len(self.lengths)


@dataclass(frozen=True, eq=False)
class SplitPart(Split):
    """Some of the examples of a split, numbered anew."""

    kept: NDArray[np.int64]
    """Their numbers in the whole split, in rising order."""

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return super().examples(self.kept[rows])

    def _array(self, kind: str) -> NDArray[Any]:
        array: NDArray[Any] = super()._array(kind)[self.kept]
        return array


def part_of(split: Split, fraction: float) -> Split:
    """A random part of the rows of each source, at least one; always the same one, and for a smaller fraction a part of
    that for a larger one. All examples of a row stay together."""
    if fraction == 1:
        return split
    is_kept = np.zeros(len(split), dtype=bool)
    for source in np.unique(split.sources):
        of_source = np.flatnonzero(split.sources == source)
        rows, row_of_example = np.unique(split.row_of_example[of_source], return_inverse=True)
        draws = np.random.Philox(key=np.array([PART_KEY, source], dtype=np.uint64)).random_raw(len(rows))
        num_kept = max(1, math.floor(len(rows) * fraction + 0.5))
        of_part = np.zeros(len(rows), dtype=bool)
        of_part[np.argsort(draws, kind="stable")[:num_kept]] = True
        is_kept[of_source] = of_part[row_of_example]
    return SplitPart(split.folder, split.name, split.shards, np.flatnonzero(is_kept))


def damaged(path: Path, error: Exception) -> DataError:
    """The error for a file of prepared data that cannot be read."""
    return DataError(f"{path} is damaged ({error}); delete {path.parent} and run again to prepare it again")


def _open(path: Path) -> dict[str, Callable[[int], Any]]:
    """By column, a function from the position of an example in this shard to its value."""
    try:
        (batch,) = pa.ipc.open_file(pa.memory_map(str(path))).read_all().to_batches()
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise damaged(path, error) from error
    return {name: _reader(batch.column(name)) for name in batch.schema.names}


def _reader(array: pa.Array) -> Callable[[int], Any]:
    # Through numpy, because Arrow creates an object of its own for every number before Python's.
    kind = array.type
    if pa.types.is_list(kind) and _is_number(kind.value_type) and not array.null_count:
        if not array.values.null_count:
            ends, values = array.offsets.to_numpy(), array.values.to_numpy()
            return lambda at: values[ends[at] : ends[at + 1]].tolist()
    elif _is_number(kind) and not array.null_count:
        numbers = array.to_numpy()
        return lambda at: numbers[at].item()
    return lambda at: array[at].as_py()


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
