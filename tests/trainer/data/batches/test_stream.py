"""A stream has the same rows for any number of ranks and from any step on, and never more than a window of them."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import ConfigError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.steps import training_steps_of
from shardtune.trainer.data.batches.stream import open_stream
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.data.prepare.sources import Sources
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import TASKS
from tests.support.ranks import run_ranks
from tests.support.runs import curve, tiny_recipe, train, write_tiny

STREAM = ("data.streaming=true", "data.shuffle_window=20", "train.max_steps=15")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path)


def streaming(folder: Path, *overrides: str) -> Recipe:
    return tiny_recipe(folder, *STREAM, *overrides)


def lines(recipe: Recipe, first: int, count: int) -> list[list[int]]:
    """The lines of the rows of so many steps, on a rank that is alone."""
    prepared = prepare(recipe)

    def body(ranks: Ranks) -> list[list[int]]:
        steps = open_stream(prepared.facts, prepared.meta["columns"], recipe, ranks).steps(first)
        return [[row.line for _, row in sorted(next(steps).own.items())] for _ in range(count)]

    return run_ranks(body, world_size=1)[0]


def test_a_stream_of_one_file_has_the_order_that_it_always_had(folder: Path) -> None:
    recipe = streaming(folder, "train.global_batch_size=5")
    assert lines(recipe, 0, 2) == [[11, 18, 3, 20, 5], [7, 10, 1, 12, 9]]
    assert lines(recipe, 13, 2) == [[67, 62, 19, 18, 8], [15, 16, 5, 1, 4]]


def test_every_row_comes_once_before_any_comes_again(folder: Path) -> None:
    recipe = streaming(folder, "train.global_batch_size=1")
    rows = [line for step in lines(recipe, 0, 3 * 67) for line in step]
    for start in range(0, 3 * 67, 67):
        assert Counter(rows[start : start + 67]) == Counter(range(1, 68))
        # Shuffled among twenty, and each time otherwise.
        assert sorted(rows[start : start + 20]) == list(range(1, 21)) != rows[start : start + 20]
    assert rows[:67] != rows[67:134]


@pytest.mark.parametrize("first", [1, 4, 5, 6, 13, 40])
def test_a_stream_resumes_at_any_step(folder: Path, first: int) -> None:
    recipe = streaming(folder)
    assert lines(recipe, first, 3) == lines(recipe, 0, 43)[first : first + 3]


def test_no_more_is_read_than_is_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = Sources.records
    read: list[int] = []

    def counted(self: Sources, *words: Any) -> Any:
        for path, file_records in records(self, *words):
            yield path, (read.append(record.line) or record for record in file_records)  # type: ignore[func-returns-value]

    recipe = streaming(folder, "data.shuffle_window=5", "train.global_batch_size=2")
    prepared = prepare(recipe)
    assert prepared.meta["splits"]["train"]["rows"] == 5
    monkeypatch.setattr("shardtune.trainer.data.batches.stream.ROWS_AT_ONCE", 5)
    monkeypatch.setattr(Sources, "records", counted)

    def body(ranks: Ranks) -> list[int]:
        next(open_stream(prepared.facts, prepared.meta["columns"], recipe, ranks).steps(0))
        return read

    assert run_ranks(body, world_size=1) == [[1, 2, 3, 4, 5]]


def test_any_number_of_ranks_trains_on_the_same_rows(folder: Path) -> None:
    recipe = streaming(folder)
    prepared = prepare(recipe)

    def body(ranks: Ranks) -> list[Any]:
        task = TASKS["classification"](recipe.task, prepared.facts, load_tokenizer(recipe), load_model_config(recipe))
        steps = training_steps_of(prepared, recipe, BatchMaker(task, ranks, None, 16384)).begin(2, ())
        found = []
        for step in steps:
            by_rank = ranks.gather([float(batch.num_targets) for batch in step.micro_batches])
            found.append((step.num_samples, step.num_targets, step.num_tokens, by_rank))
        return found

    one, two = run_ranks(body, world_size=1)[0], run_ranks(body, world_size=2)
    assert two[0] == two[1] and len(one) == 13
    assert [step[:3] for step in one] == [step[:3] for step in two[0]]
    for _, num_targets, _, by_rank in two[0]:
        assert len({len(targets) for targets in by_rank}) == 1 and sum(map(sum, by_rank)) == num_targets == 12


def test_training_on_a_stream_is_the_same_on_any_number_of_ranks(folder: Path, tmp_path: Path) -> None:
    whole = train(streaming(folder, "train.eval_every_steps=5"), tmp_path / "whole", world_size=1)[1]
    other = train(streaming(folder, "train.eval_every_steps=5"), tmp_path / "other", world_size=2)[1]
    assert [step for step, _, _ in curve(whole)] == list(range(1, 16))
    for one, two in zip(curve(whole), curve(other), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


def test_rows_that_do_not_fit_the_facts_about_the_first_ones_are_bad(folder: Path) -> None:
    with (folder / "train.jsonl").open("a") as file:
        file.write(json.dumps({"text": "so so", "label": "neutral"}) + "\n" + json.dumps({"text": ""}) + "\n")
    with pytest.raises(AssertionError, match=r"BadRowsError: .*train\.jsonl:69: text is empty\n.*:69: no label"):
        lines(streaming(folder), 0, 8)
    bad = streaming(folder, "data.on_bad_row=skip", "train.global_batch_size=1")
    assert {line for step in lines(bad, 0, 68) for line in step} == set(range(1, 68))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["train.max_steps=null"], "set train.max_steps"),
        (["data.dev={fraction: 0.1}"], "dev and test cannot be shares of a stream"),
        (["data.deduplicate=train"], "remove deduplicate"),
        (["data.train=[{path: a.jsonl, weight: 2}]"], "remove the weights"),
        (["train.global_batch_tokens=100"], "remove train.global_batch_tokens"),
    ],
)
def test_what_a_stream_cannot_have_is_refused(folder: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        streaming(folder, *overrides)
