"""Wherever a run breaks off, the next start ends where the unbroken one does."""

import json
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.support.runs import STEPS_PER_EPOCH, curve, events, tiny_recipe, train, write_tiny
from trainer.checkpoint import complete_checkpoints
from trainer.config.run_dir import RESULTS
from trainer.milestones import Milestones

NUM_STEPS = 3 * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every step draws random numbers: a resumed run must draw the same."""
    return write_tiny(tmp_path_factory.mktemp("dropout"), dropout=0.1)


def stop_after(num_steps: int) -> Callable[[], None]:
    def before() -> None:
        asked = count(1)
        Milestones.stop_requested = lambda self: next(asked) >= num_steps  # type: ignore[method-assign]

    return before


@pytest.mark.parametrize(("stage", "precision"), [(2, "bf16"), (3, "fp32")])
def test_a_run_broken_off_twice_ends_with_the_unbroken_ones_weights_bit_for_bit(
    with_dropout: Path, tmp_path: Path, stage: int, precision: str
) -> None:
    recipe = tiny_recipe(with_dropout, f"engine.deepspeed=zero{stage}", f"engine.precision={precision}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(recipe, whole, world_size=2)[0] == [True, True]
    assert train(recipe, broken, world_size=2, before=stop_after(4))[0] == [False, False]
    assert [path.name for path in complete_checkpoints(broken / "checkpoints")] == ["step-4"]
    assert train(recipe, broken, world_size=2, before=stop_after(9))[0] == [False, False]
    assert train(recipe, broken, world_size=2)[0] == [True, True]
    assert curve(events(broken)) == curve(events(whole))
    assert json.loads((broken / RESULTS).read_text()) == json.loads((whole / RESULTS).read_text())
    for name in ("best", "last"):
        its, other = (load_file(folder / "export" / name / "model.safetensors") for folder in (whole, broken))
        assert its.keys() == other.keys()
        assert all(torch.equal(its[key], other[key]) for key in its)


def test_a_mixture_goes_on_in_the_order_and_with_the_halves_that_it_had(tiny: Path, tmp_path: Path) -> None:
    sources = f"[{{path: {tiny}/train.jsonl, weight: 0.5}}, {{path: {tiny}/test.jsonl, weight: 2}}]"
    recipe = tiny_recipe(tiny, f"data.train={sources}", "train.num_epochs=2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole, world_size=1)
    assert curve(events(whole))[-1][0] == events(whole, "start")[0]["num_steps"] == 2 * 8  # of 34 + 62 rows
    train(recipe, broken, world_size=1, before=stop_after(11))
    train(recipe, broken, world_size=1)
    assert curve(events(broken)) == curve(events(whole))


def test_a_half_checkpoint_is_not_gone_on_from(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "checkpoint.every_steps=2", "checkpoint.keep_last=3")
    train(recipe, tmp_path, world_size=1, before=stop_after(5))
    kept = complete_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in kept] == ["step-2", "step-4", "step-5"]
    (kept[-1] / "state.json").unlink()
    shutil.copytree(kept[0], tmp_path / "checkpoints" / ".step-9")
    train(recipe, tmp_path, world_size=1)
    start = events(tmp_path, "start")[-1]
    assert start["step"] == 4
    assert [step for step, *_ in curve(events(tmp_path))] == list(range(1, NUM_STEPS + 1))


@pytest.mark.parametrize(("world_size", "override"), [(2, "job.ranks=2"), (1, "engine.deepspeed=zero1")])
def test_another_layout_is_refused_in_words(tiny: Path, tmp_path: Path, world_size: int, override: str) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=1, before=stop_after(2))
    with pytest.raises(AssertionError, match=r"was saved on job\.ranks=1, ZeRO-2, engine\.precision=fp32; go on with"):
        train(tiny_recipe(tiny, override), tmp_path, world_size=world_size)


def test_only_the_newest_checkpoints_stay(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "checkpoint.every_steps=3", "checkpoint.keep_last=2"), tmp_path, world_size=1)
    kept = [path.name for path in complete_checkpoints(tmp_path / "checkpoints")]
    assert kept == [f"step-{NUM_STEPS - 3}", f"step-{NUM_STEPS}"]
