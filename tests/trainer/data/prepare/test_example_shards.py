"""What was written into shards comes back as it was, of whatever type."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row
from shardtune.trainer.data.prepare import example_shards as module
from shardtune.trainer.data.prepare.example_shards import Encoder, Split
from shardtune.trainer.tasks.example import TRUNCATED, Example


class Verbatim:
    """A task whose examples are given in the rows; a row without examples is bad."""

    def encode(self, rows: Sequence[Row], max_tokens: int, *, labeled: bool) -> list[list[Example]]:
        faults = Faults()
        for row in rows:
            if row.values["examples"] is None:
                faults.add(row, "nothing in it")
        faults.raise_if_any()
        return [[dict(example) for example in row.values["examples"]] for row in rows]

    def num_tokens(self, example: Example) -> int:
        return len(example["input_ids"])

    def num_targets(self, example: Example) -> float:
        return 1.0


def rows_of(*examples: list[Example] | None) -> list[Row]:
    return [Row({"examples": row_examples}, Path("a"), line) for line, row_examples in enumerate(examples, start=1)]


def back(folder: Path, *chunks: list[Row], skip: bool = False) -> tuple[list[Example], Any]:
    written = Encoder(Verbatim(), 99, are_bad_skipped=skip).write(folder, "train-00000", chunks)  # type: ignore[arg-type]
    split = Split(folder, "train", written.shards)
    return split.examples(np.arange(sum(count for _, count in written.shards))), written


NUMBERS = st.integers(0, 2**33)
EXAMPLES = st.fixed_dictionaries(
    {"input_ids": st.lists(NUMBERS, min_size=1, max_size=5), "labels": st.lists(NUMBERS, max_size=5)}
)


@given(st.lists(EXAMPLES, min_size=1, max_size=9), st.integers(1, 4))
def test_lists_of_numbers_come_back(
    tmp_path_factory: pytest.TempPathFactory, examples: list[Example], size: int
) -> None:
    rows = rows_of(*([example] for example in examples))
    chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
    assert back(tmp_path_factory.mktemp("shards"), *chunks)[0] == examples


@pytest.mark.parametrize("name", ["ids", "floats", "texts", "number", "float", "nested", "nothing"])
def test_every_type_comes_back_even_where_some_examples_lack_it(tmp_path: Path, name: str) -> None:
    values: dict[str, list[Any]] = {
        "ids": [[1, 2], [], [2**31]],
        "floats": [[0.5, 1.0], [], [2.0]],
        "texts": ["a", "", "好"],
        "number": [1, -5, 2**40],
        "float": [0.5, 1.0, -2.0],
        "nested": [[[1], []], [], [[2, 3]]],
        "nothing": [None, None, None],
    }
    examples = [{"input_ids": [1], "value": value} for value in values[name]]
    found, _ = back(tmp_path, rows_of(examples[:1]), rows_of(examples[1:]))
    assert found == examples
    assert [type(example["value"]) for example in found] == [type(value) for value in values[name]]
    lacking, _ = back(tmp_path, rows_of([{"input_ids": [1]}]), rows_of(examples))
    assert lacking == [{"input_ids": [1], "value": None}, *examples]


def test_large_ones_are_cut_into_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD_BYTES", 1000)
    examples = [{"input_ids": list(range(at, at + 100))} for at in range(20)]
    found, written = back(tmp_path, *(rows_of([example]) for example in examples))
    assert found == examples and len(written.shards) > 5
    assert written.lengths.tolist() == [100] * 20 and written.lengths.dtype == np.int32


def test_what_is_counted_of_rows(tmp_path: Path) -> None:
    whole, cut = {"input_ids": [1, 2]}, {"input_ids": [3]}
    rows = rows_of([whole], [], None, [{**cut, TRUNCATED: 7}, whole])
    with pytest.raises(BadRowsError, match="a:3: nothing in it"):
        back(tmp_path, rows)
    found, written = back(tmp_path, rows, skip=True)
    assert found == [whole, cut, whole]
    assert (written.num_rows, written.num_dropped, written.faults.num_rows) == (4, 1, 1)
    assert (written.num_truncated, written.num_tokens_truncated) == (1, 7)
