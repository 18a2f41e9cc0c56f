"""data.fraction keeps a random part of the rows of each source, and a smaller one is within a larger one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import learning_hash
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.steps import TrainingSteps, part_note, training_split, training_steps_of
from shardtune.trainer.data.prepare.example_shards import Split, SplitPart, part_of
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import task_of
from tests.support.runs import tiny_recipe, write_tiny


class InMemory(Split):
    """A split whose rows have these numbers of windows, one source after the other."""

    def __init__(self, windows: list[list[int]]) -> None:
        super().__init__(Path("none"), "train", [])
        rows = [(source, count) for source, counts in enumerate(windows) for count in counts]
        numbers = np.repeat(np.arange(len(rows)), [count for _, count in rows])
        arrays = {
            "sources": np.array([source for source, count in rows for _ in range(count)], dtype=np.int32),
            "places": np.stack([np.zeros_like(numbers), numbers, np.zeros_like(numbers)], axis=1),
            "lengths": np.arange(len(numbers), dtype=np.int32) + 1,
        }
        vars(self)["arrays"] = arrays

    def _array(self, kind: str) -> NDArray[np.int32]:
        array: NDArray[np.int32] = vars(self)["arrays"][kind]
        return array


def kept(split: Split, fraction: float) -> set[int]:
    part = part_of(split, fraction)
    return set(part.kept.tolist()) if isinstance(part, SplitPart) else set(range(len(split)))


SOURCES = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=40), min_size=1, max_size=3)
FRACTION = st.floats(0.001, 1)


@given(SOURCES, FRACTION, FRACTION)
def test_a_smaller_part_is_within_a_larger_one(windows: list[list[int]], one: float, other: float) -> None:
    split = InMemory(windows)
    assert kept(split, min(one, other)) <= kept(split, max(one, other))


@given(SOURCES, FRACTION)
def test_each_source_gives_its_share_of_whole_rows(windows: list[list[int]], fraction: float) -> None:
    split = InMemory(windows)
    chosen = kept(split, fraction)
    rows = split.row_of_example
    for source, counts in enumerate(windows):
        of_source = np.flatnonzero(split.sources == source)
        whole = {int(row) for row in rows[of_source]}
        kept_rows = {int(rows[at]) for at in of_source if int(at) in chosen}
        assert all(int(at) in chosen for at in of_source if int(rows[at]) in kept_rows)
        assert len(kept_rows) == max(1, int(len(counts) * fraction + 0.5)) and kept_rows <= whole


def test_the_part_is_drawn_anew_by_no_seed_and_is_no_prefix() -> None:
    split = InMemory([[1] * 1000])
    first = kept(split, 0.3)
    assert first == kept(InMemory([[1] * 1000]), 0.3) != set(range(300))
    assert abs(np.mean(list(first)) - 500) < 60  # from everywhere in the file
    # A sequence of draws that says which row is at which place, as all versions have to give it.
    assert sorted(first)[:8] == [5, 7, 11, 13, 15, 17, 18, 22]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


def test_the_parts_share_the_prepared_data_and_have_their_own_examples(folder: Path) -> None:
    whole, half = tiny_recipe(folder), tiny_recipe(folder, "data.fraction=0.5", "train.seed=5")
    prepared = prepare(whole)
    assert prepare(half).folder == prepared.folder
    train, part = training_split(prepared, whole), training_split(prepared, half)
    assert isinstance(part, SplitPart) and len(part) == 34 and len(train) == 67
    rows = np.arange(len(part))
    assert part.examples(rows) == train.examples(part.kept)
    assert part.place(3) == train.place(int(part.kept[3]))
    assert part.lengths.tolist() == train.lengths[part.kept].tolist()
    again = training_split(prepared, tiny_recipe(folder, "data.fraction=0.5", "train.seed=6"))
    assert isinstance(again, SplitPart) and (again.kept == part.kept).all()


def steps_of(recipe: Recipe, *, world_size: int = 1) -> TrainingSteps:
    prepared = prepare(recipe)
    task = task_of(recipe, prepared.facts, load_tokenizer(recipe), load_model_config(recipe))
    maker = BatchMaker(task, Ranks(0, world_size, 0, torch.device("cpu")), None, micro_batch_tokens=4096)
    return training_steps_of(prepared, recipe, maker)


def test_training_takes_the_rows_of_the_part_and_fewer_steps(folder: Path) -> None:
    steps = steps_of(tiny_recipe(folder, "data.fraction=0.5", "train.num_epochs=2"))
    assert (steps.num_rows, steps.steps_per_epoch, steps.num_steps) == (34, 3, 6)
    assert [step.num_samples for step in steps.begin(0, ())] == [12, 12, 10] * 2


def test_a_part_with_fewer_rows_than_ranks_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"data\.fraction=0\.03 leaves 2 training rows for 3 ranks"):
        steps_of(tiny_recipe(folder, "data.fraction=0.03"), world_size=3)


def test_the_note_names_the_rows_and_the_fraction(folder: Path) -> None:
    assert part_note(tiny_recipe(folder, "data.fraction=0.5"), 34) == (
        "data.fraction: trains on 34 rows, 0.5 of the training rows"
    )


def test_the_whole_leaves_the_hash_of_earlier_recipes_and_a_part_does_not(folder: Path) -> None:
    whole, part = tiny_recipe(folder), tiny_recipe(folder, "data.fraction=0.5")
    assert learning_hash(whole) == learning_hash(tiny_recipe(folder, "data.fraction=1.0")) != learning_hash(part)
    for wrong in ("0", "1.5"):
        with pytest.raises(ConfigError, match=r"data\.fraction"):
            tiny_recipe(folder, f"data.fraction={wrong}")
    with pytest.raises(ConfigError, match="a part of a stream cannot be chosen"):
        tiny_recipe(folder, "data.fraction=0.5", "data.streaming=true", "train.max_steps=3")
