"""What `train.micro_batch_tokens: auto` is estimated to be, how it is kept, and how it falls."""

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shardtune.errors import CheckpointError, RestartError, ShortOfMemoryError, TakenOverError
from shardtune.planner.forecast.of_recipe import FILLS
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease import take_lease
from shardtune.run_dir.micro_batch_budget import KEPT_BUDGET, KeptBudget, keep_budget, read_budget
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.steps import training_steps_of
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from shardtune.trainer.distributed.lease import PeersLease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.memory_plan import memory_of, model_size, rank_job
from shardtune.trainer.setup.micro_batch import Budget, estimate, most_wanted
from shardtune.trainer.setup.rehearsal import halved_when_short
from shardtune.trainer.tasks import TASKS, causal
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import Example
from tests.support.runs import tiny_recipe

ALONE = Ranks(0, 1, 0, torch.device("cpu"))


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    return tiny_recipe(tiny, "train.micro_batch_tokens=auto", "data.max_tokens=24")


@pytest.fixture(scope="module")
def prepared(recipe: Recipe) -> Prepared:
    return prepare(recipe)


@pytest.fixture(scope="module")
def task(recipe: Recipe, prepared: Prepared) -> Any:
    return TASKS["classification"](recipe.task, prepared.facts, load_tokenizer(recipe), load_model_config(recipe))


def rows_of(prepared: Prepared) -> Split:
    train = prepared.split("train")
    assert train is not None
    return train


def test_what_is_estimated_fits_and_one_row_more_does_not(recipe: Recipe, task: Any) -> None:
    size = model_size(recipe, task, load_model_config(recipe, task))
    job = rank_job(recipe, size, world_size=2)

    def needed(num_tokens: int) -> float:
        return memory_of(job, size, (num_tokens // 24, 24)).used

    memory = needed(40 * 24) / FILLS + 1
    tokens = estimate(recipe, task, longest=24, wanted=10**6, world_size=2, memory=memory)
    assert tokens == 40 * 24
    assert needed(tokens) <= FILLS * memory < needed(tokens + 24)


@pytest.mark.parametrize(("wanted", "memory", "tokens"), [(500, 1e12, 500), (500, 0, 24), (10, 1e12, 24), (10, 0, 24)])
def test_an_estimate_is_never_less_than_the_longest_row_nor_more_than_is_wanted(
    recipe: Recipe, task: Any, wanted: int, memory: float, tokens: int
) -> None:
    assert estimate(recipe, task, longest=24, wanted=wanted, world_size=2, memory=memory) == tokens


@pytest.mark.parametrize("budget", [24, 60, 16384])
def test_no_micro_batch_of_the_training_is_larger_than_the_one_that_is_tried_out(
    recipe: Recipe, prepared: Prepared, task: Any, budget: int
) -> None:
    train = rows_of(prepared)
    wanted = most_wanted(train, recipe, BatchMaker(task, ALONE, None))
    tokens = min(budget, wanted)
    rows, longest = BatchMaker(task, ALONE, None, tokens).largest_batch(train).shape
    steps = training_steps_of(prepared, recipe, BatchMaker(task, ALONE, None, budget))
    shapes = [batch.shape for step in steps.begin(0, ()) for batch in step.micro_batches]
    assert longest == max(length for _, length in shapes) == 24
    assert tokens - longest < rows * longest <= tokens
    assert all(math.prod(shape) <= tokens for shape in shapes)
    assert any(math.prod(shape) > tokens - longest for shape in shapes)


def test_shorter_rows_fill_a_micro_batch_too_but_not_with_more_of_them_than_a_step_has(
    prepared: Prepared, task: Any
) -> None:
    train = rows_of(prepared)
    shortest = int(train.lengths.argmin())
    maker = BatchMaker(task, ALONE, None, 96)
    rows, longest = maker.full_batch(train, shortest, most_rows=1000).shape
    assert longest == train.lengths[shortest] and 96 - longest < rows * longest <= 96
    assert maker.full_batch(train, shortest, most_rows=3).shape == (3, longest)


class Chats:
    """Three conversations, and the task that learns from them."""

    lengths = np.array([5, 24, 7], dtype=np.int32)

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return [{key: [1] * int(self.lengths[row]) for key in ("input_ids", "labels")} for row in rows]

    def collate(self, examples: Sequence[Example]) -> Batch:
        return causal.collate(examples, 0)


@pytest.mark.parametrize(("is_flat", "shape"), [(False, (4, 24)), (True, (1, 4 * 24))])
def test_packed_rows_are_tried_out_as_they_are_packed(is_flat: bool, shape: tuple[int, int]) -> None:
    chats: Any = Chats()
    batch = BatchMaker(chats, ALONE, Packing(24, is_flat=is_flat), 100).largest_batch(chats)
    assert batch.shape == shape and "position_ids" in batch.inputs


def test_a_whole_share_is_wanted_and_of_a_stream_as_much_as_its_rows_may_have(
    recipe: Recipe, prepared: Prepared, task: Any
) -> None:
    train = rows_of(prepared)
    makers = {size: BatchMaker(task, replace(ALONE, world_size=size), None) for size in (1, 2, 5)}
    one, two = (most_wanted(train, recipe, makers[size]) for size in (1, 2))
    assert 12 * 20 < one <= 12 * 24 and one / 2 <= two < one
    stream = recipe.data.model_copy(update={"streaming": True})
    assert most_wanted(train, recipe.model_copy(update={"data": stream}), makers[5]) == 3 * 24


def test_each_lack_of_memory_halves_it_until_it_holds_but_the_longest_row(tmp_path: Path) -> None:
    lease = take_lease(tmp_path / LEASE)
    budget, seen = Budget(100, least=24), []
    with pytest.raises(ShortOfMemoryError, match="rank 1"):
        while True:
            try:
                with halved_when_short(budget, tmp_path, lease):
                    raise ShortOfMemoryError("rank 1 has run out of memory\nthese would fit: …")
            except RestartError as error:
                kept = read_budget(tmp_path)
                assert kept is not None and not kept.fits
                assert str(error).splitlines()[0] == "rank 1 has run out of memory"
                assert f"auto is {kept.tokens} (memory ran out with {budget.tokens})" in str(error)
                budget = replace(budget, tokens=kept.tokens)
                seen.append(kept.tokens)
    assert seen == [50, 25, 24]
    lease.close()


def test_a_number_that_the_recipe_gives_stays_as_it_is(tmp_path: Path) -> None:
    lease = PeersLease(tmp_path / LEASE, "mine")
    with pytest.raises(ShortOfMemoryError), halved_when_short(Budget(100), tmp_path, lease):
        raise ShortOfMemoryError("rank 0 has run out of memory")
    with pytest.raises(KeyError), halved_when_short(Budget(100, least=1), tmp_path, lease):
        raise KeyError("another mistake")
    assert not (tmp_path / KEPT_BUDGET).exists()


def test_a_start_whose_run_directory_is_anothers_by_now_leaves_no_number(tmp_path: Path) -> None:
    other = take_lease(tmp_path / LEASE, "8")
    with (
        pytest.raises(TakenOverError),
        halved_when_short(Budget(100, least=1), tmp_path, PeersLease(tmp_path / LEASE, "mine")),
    ):
        raise ShortOfMemoryError("rank 1 has run out of memory")
    assert not (tmp_path / KEPT_BUDGET).exists()
    other.close()


def test_where_the_disk_takes_no_number_the_message_is_the_usual_one(tmp_path: Path) -> None:
    lease = PeersLease(tmp_path / "gone" / LEASE, "mine")
    with pytest.raises(ShortOfMemoryError), halved_when_short(Budget(100, least=1), tmp_path / "gone", lease):
        raise ShortOfMemoryError("rank 0 has run out of memory")


def test_what_is_kept_reads_back_and_a_damaged_file_says_what_to_do(tmp_path: Path) -> None:
    assert read_budget(tmp_path) is None
    kept = KeptBudget(50, fits=False, too_many=100)
    keep_budget(tmp_path, kept)
    assert read_budget(tmp_path) == kept
    for text in ("{", "[]", json.dumps({"tokens": 5})):
        (tmp_path / KEPT_BUDGET).write_text(text)
        with pytest.raises(CheckpointError, match=r"micro_batch_tokens\.json is damaged; remove it"):
            read_budget(tmp_path)
