"""The launcher finds the token counts of prepared data, and none once a file was written to or an option changed."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from shardtune.known_machine.prepared_data import NOTES, TokenCounts, note_prepared, token_counts
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.prepare.prepare import prepare
from tests.support.runs import tiny_recipe, write_tiny


def test_what_the_trainer_has_prepared_is_counted_exactly(tmp_path: Path) -> None:
    recipe = tiny_recipe(write_tiny(tmp_path))
    assert token_counts(recipe) is None
    prepared = prepare(recipe)
    train = prepared.split("train")
    found = token_counts(recipe)
    assert train is not None and found is not None
    assert found.num_rows == 67 and found.tokens == train.lengths.sum()
    assert found.square_sum == (train.lengths.astype(float) ** 2).sum()
    assert found.dev_tokens == prepared.meta["splits"]["dev"]["tokens"]
    assert found.useful is not None and 0.5 < found.useful <= 1
    other = tiny_recipe(tmp_path, "data.max_tokens=8", "optim.lr=1")
    assert token_counts(other) is None
    assert token_counts(tiny_recipe(tmp_path, "optim.lr=1", "data.packing=off")) is not None
    state = (tmp_path / "dev.jsonl").stat()
    os.utime(tmp_path / "dev.jsonl", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    assert token_counts(recipe) is None


RECIPE = """
task: {{kind: classification}}
model: {{path: {folder}}}
data: {{train: {folder}/train.jsonl, cache_dir: {folder}/cache, length_window: {window}}}
train: {{global_batch_size: 4}}
job: {{ranks: {ranks}}}
"""


def counted(folder: Path, lengths: list[int], *, window: int, ranks: int) -> TokenCounts | None:
    (folder / "train.jsonl").write_text("{}\n", encoding="utf-8")
    recipe = parse_recipe(RECIPE.format(folder=folder, window=window, ranks=ranks))
    prepared = folder / "cache/0123"
    prepared.mkdir(parents=True, exist_ok=True)
    np.save(prepared / "train.lengths.npy", np.array(lengths, dtype=np.int32))
    meta = {"splits": {"train": {"examples": len(lengths), "tokens": sum(lengths)}}}
    (prepared / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    note_prepared(recipe, prepared)
    return token_counts(recipe)


def test_padding_is_what_neighbors_by_length_lack(tmp_path: Path) -> None:
    # Sorted, each step has rows of one length; in random order most steps have both.
    tidy = counted(tmp_path, [10, 20] * 8, window=50, ranks=1)
    mixed = counted(tmp_path, [10, 20] * 8, window=0, ranks=1)
    assert tidy is not None and tidy.useful == 1.0
    assert mixed is not None and mixed.useful is not None and 0.7 < mixed.useful < 1
    assert tidy.attended == pytest.approx((100 + 400) / 30)
    halves = counted(tmp_path, [10, 10, 20, 20], window=0, ranks=2)
    assert halves is not None and halves.useful == 1.0  # each rank has two rows of a length


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE.format(folder=folder, window=50, ranks=1), overrides)


@pytest.mark.parametrize("override", ["data.train=hf:owner/name", "data.train=[{path: a.jsonl, weight: 2}]"])
def test_of_data_that_may_change_unseen_nothing_is_known(tmp_path: Path, override: str) -> None:
    note_prepared(recipe_of(tmp_path, override), tmp_path / "cache/0123")
    assert not (tmp_path / "cache" / NOTES).exists()
    assert token_counts(recipe_of(tmp_path, override)) is None


@pytest.mark.parametrize("damage", ["meta.json", "train.lengths.npy"])
def test_a_damaged_cache_has_no_counts(tmp_path: Path, damage: str) -> None:
    assert counted(tmp_path, [1, 2], window=50, ranks=1) is not None
    (tmp_path / "cache/0123" / damage).write_bytes(b"[")
    assert token_counts(recipe_of(tmp_path)) is None
