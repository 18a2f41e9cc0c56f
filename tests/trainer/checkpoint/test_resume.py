"""Wherever a run breaks off, and on whatever it goes on, it ends where the unbroken one does."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import FACTS, FORKED_FROM, RESULTS
from shardtune.run_dir.run import Run, find_run, write_run_dir
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy
from shardtune.trainer.checkpoint.manifest import complete_checkpoints, damage, open_checkpoint
from shardtune.trainer.checkpoint.resume import find_newest, refuse_other_labels, state_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.zero_layout import Home
from tests.support.ranks import run_ranks
from tests.support.runs import RECIPE, STEPS_PER_EPOCH, curve, events, tiny_recipe, train, write_tiny
from tests.support.stops import stop_after

NUM_STEPS = 3 * STEPS_PER_EPOCH


@pytest.fixture(scope="module")
def with_dropout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every step draws random numbers: a resumed run must draw the same."""
    return write_tiny(tmp_path_factory.mktemp("dropout"), dropout=0.1)


def exported(run_dir: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "export" / name / "model.safetensors")


@pytest.mark.parametrize(
    ("strategy", "precision"), [("null", "bf16"), ("zero0", "bf16"), ("zero2", "bf16"), ("zero3", "fp32")]
)
def test_a_run_broken_off_twice_ends_with_the_unbroken_ones_weights_bit_for_bit(
    with_dropout: Path, tmp_path: Path, strategy: str, precision: str
) -> None:
    recipe = tiny_recipe(with_dropout, f"engine.deepspeed={strategy}", f"engine.precision={precision}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(recipe, whole, world_size=2)[0] == [True, True]
    assert train(recipe, broken, world_size=2, before=stop_after(4))[0] == [False, False]
    assert [checkpoint.step for checkpoint in complete_checkpoints(broken / "checkpoints")] == [4]
    assert train(recipe, broken, world_size=2, before=stop_after(9))[0] == [False, False]
    assert train(recipe, broken, world_size=2)[0] == [True, True]
    assert curve(events(broken)) == curve(events(whole))
    assert json.loads((broken / RESULTS).read_text()) == json.loads((whole / RESULTS).read_text())
    for name in ("best", "last"):
        model, other = exported(whole, name), exported(broken, name)
        assert model.keys() == other.keys()
        assert all(torch.equal(model[key], other[key]) for key in model)


def test_a_mixture_goes_on_in_the_order_and_with_the_halves_that_it_had(tiny: Path, tmp_path: Path) -> None:
    sources = f"[{{path: {tiny}/train.jsonl, weight: 0.5}}, {{path: {tiny}/test.jsonl, weight: 2}}]"
    recipe = tiny_recipe(tiny, f"data.train={sources}", "train.num_epochs=2")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole, world_size=1)
    assert curve(events(whole))[-1][0] == events(whole, "start")[0]["num_steps"] == 2 * 8  # of 34 + 62 rows
    train(recipe, broken, world_size=1, before=stop_after(11))
    train(recipe, broken, world_size=1)
    assert curve(events(broken)) == curve(events(whole))


@pytest.fixture(scope="module")
def unbroken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, float, float]]:
    """The curve of two ranks, ZeRO-2, fp32."""
    return curve(train(tiny_recipe(tiny), tmp_path_factory.mktemp("unbroken"), world_size=2)[1])


def worst(one: list[tuple[int, float, float]], other: list[tuple[int, float, float]]) -> float:
    """The largest relative difference of two curves' losses."""
    assert [step for step, *_ in one] == [step for step, *_ in other] == [*range(1, NUM_STEPS + 1)]
    return max(abs(loss - theirs) / theirs for (_, loss, _), (_, theirs, _) in zip(one, other, strict=True))


def test_two_four_one_and_three_ranks_of_three_stages_go_down_one_loss_curve(
    tiny: Path, tmp_path: Path, unbroken: list[tuple[int, float, float]]
) -> None:
    """Each leg ends within an epoch of 6 steps."""
    for num_ranks, stage, num_steps in ((2, 2, 4), (4, 3, 5), (1, 1, 5), (3, 0, None)):
        recipe = tiny_recipe(tiny, f"engine.deepspeed=zero{stage}")
        stop = stop_after(num_steps) if num_steps else (lambda: None)
        train(recipe, tmp_path, world_size=num_ranks, before=stop)
        assert events(tmp_path, "start")[-1]["world_size"] == num_ranks
    assert [event["step"] for event in events(tmp_path, "start")] == [0, 4, 9, 14]
    assert worst(curve(events(tmp_path)), unbroken) < 1e-5


def forget_moments() -> None:
    """Breaks this process: the optimizer starts anew with the weights that were saved."""
    Home.make_states = lambda self, keys, scalars: None  # type: ignore[method-assign]


def test_a_forgotten_optimizer_is_seen(tiny: Path, tmp_path: Path, unbroken: list[tuple[int, float, float]]) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=2, before=stop_after(4))
    train(tiny_recipe(tiny, "engine.deepspeed=zero1"), tmp_path, world_size=1, before=forget_moments)
    assert worst(curve(events(tmp_path)), unbroken) > 1e-3


def test_another_precision_goes_on_from_the_same_master_weights(
    tiny: Path, tmp_path: Path, unbroken: list[tuple[int, float, float]]
) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=2, before=stop_after(8))
    train(tiny_recipe(tiny, "engine.precision=bf16"), tmp_path, world_size=2)
    assert [event["precision"] for event in events(tmp_path, "start")] == ["fp32", "bf16"]
    assert 0 < worst(curve(events(tmp_path)), unbroken) < 0.05


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)


def test_what_is_half_or_damaged_is_named_and_passed_over_and_never_counted(
    tiny: Path, tmp_path: Path, unbroken: list[tuple[int, float, float]]
) -> None:
    keys = ["every_steps=2", "keep_last=9"]
    recipe = tiny_recipe(tiny, *(f"checkpoint.{key}" for key in keys))
    train(recipe, tmp_path, world_size=2, before=stop_after(10))
    folder = tmp_path / "checkpoints"
    (folder / "step-10" / "manifest.json").unlink()
    flip_a_bit(folder / "step-8" / "optimizer-00001-of-00002.safetensors")
    assert (folder / "latest").read_text() == "step-10"
    again = tiny_recipe(tiny, "checkpoint.every_steps=1", "checkpoint.keep_last=1")
    train(again, tmp_path, world_size=2, before=stop_after(1))
    assert events(tmp_path, "start")[-1]["step"] == 6
    assert [(alert["title"], alert["text"].partition(";")[0]) for alert in events(tmp_path, "alert")] == [
        ("the checkpoint of step 10 was skipped", f"{folder}/step-10: it was never finished"),
        (
            "the checkpoint of step 8 was skipped",
            f"{folder}/step-8: optimizer-00001-of-00002.safetensors is damaged: its checksum differs",
        ),
    ]
    # One is kept: that of step 7, and not the damaged one of step 8 in its place. The best one stays besides.
    whole = [
        checkpoint.step
        for checkpoint in complete_checkpoints(folder)
        if damage(checkpoint, checkpoint.manifest.files) is None
    ]
    assert whole == [6, 7]
    train(again, tmp_path, world_size=2)
    assert curve(events(tmp_path)) == unbroken


def test_a_run_of_which_nothing_is_whole_begins_anew_and_says_so(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.max_steps=3", "data.dev=null")
    train(recipe, tmp_path, world_size=1, before=stop_after(2))
    (tmp_path / "checkpoints" / "step-2" / "manifest.json").write_text("{}")
    assert train(recipe, tmp_path, world_size=1)[0] == [True]
    (alert,) = events(tmp_path, "alert")
    assert alert["text"].endswith("manifest.json is damaged: it is not a manifest; resuming at step 0")
    assert [step for step, *_ in curve(events(tmp_path))] == [1, 2, 3]


def newest(ranks: Ranks, folder: Path) -> tuple[int, dict[int, str]]:
    found = find_newest(folder, ranks)
    return found.step, found.damaged


def test_a_checkpoint_of_a_newer_shardtune_is_not_passed_over(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "train.max_steps=2", "data.dev=null"), tmp_path, world_size=1)
    path = tmp_path / "checkpoints" / "step-2" / "manifest.json"
    assert run_ranks(newest, tmp_path / "checkpoints") == [(2, {})] * 2
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 4}))
    with pytest.raises(AssertionError, match="has format 4; this shardtune reads formats up to 3"):
        run_ranks(newest, tmp_path / "checkpoints")


def test_another_best_metric_looks_at_the_evaluations_that_are_kept(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "checkpoint.keep_last=9"), tmp_path, world_size=1, before=stop_after(12))
    complete = complete_checkpoints(tmp_path / "checkpoints")
    by_accuracy = CheckpointPolicy(9, 1, True, "accuracy", False, "", {})
    by_loss = CheckpointPolicy(9, 1, True, "loss", True, "", {})
    assert state_of(complete[-1], complete, by_accuracy) == complete[-1].manifest.state
    losses = {checkpoint.step: checkpoint.manifest.metric("loss") or math.inf for checkpoint in complete}
    state = state_of(complete[-1], complete, by_loss)
    assert (state.step, state.best_value) == (12, min(losses.values()))
    assert losses[state.best_step or 0] == state.best_value
    assert state_of(complete[-1], [], by_loss).best_step is None
    newest = complete[-1].manifest
    by_nan = replace(newest, state=replace(newest.state, best_step=12, best_value=math.nan))
    complete[-1].__dict__["manifest"] = by_nan  # an older shardtune took nan for the best
    assert math.isfinite(state_of(complete[-1], complete, by_accuracy).best_value or math.nan)


@pytest.fixture(scope="module")
def stopped(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory, as the command line makes it, of a run that stopped at step 7, after one evaluation."""
    folder = tmp_path_factory.mktemp("stopped")
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=tiny), encoding="utf-8")
    run = find_run(folder / "recipe.yaml", [], folder / "run")
    write_run_dir(run)
    train(run.recipe, run.run_dir, world_size=2, before=stop_after(7))
    return run.run_dir


def begin(run: Run, *, world_size: int = 2, before: Callable[[], None] = lambda: None) -> None:
    write_run_dir(run)
    train(run.recipe, run.run_dir, world_size=world_size, before=before)


def test_a_changed_recipe_is_refused_in_the_old_directory_and_goes_on_in_a_fork(stopped: Path, tmp_path: Path) -> None:
    changes = ["optim.lr=1e-3", "train.num_epochs=2"]
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.003 -> 0\.001\n.*--fork=NEW_DIR"):
        find_run(stopped, changes, None)
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    fork = tmp_path / "fork"
    run = find_run(stopped, changes, None, fork)
    begin(run, world_size=1)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before
    assert json.loads((fork / FORKED_FROM).read_text()) == {
        "run_dir": str(stopped),
        "changes": ["train.num_epochs: 3.0 -> 2.0", "optim.lr: 0.003 -> 0.001"],
    }
    (start,) = events(fork, "start")
    assert (start["step"], start["num_steps"]) == (7, 12)
    steps = events(fork, "step")
    assert [event["step"] for event in steps] == [8, 9, 10, 11, 12]
    assert max(event["lr"] for event in steps) < 1e-3
    assert json.loads((fork / RESULTS).read_text())["best_step"] == 12, "what the old dev said is no longer asked"


def test_a_fork_that_changes_nothing_ends_where_the_run_itself_does(
    stopped: Path, tmp_path: Path, unbroken: list[tuple[int, float, float]]
) -> None:
    run = find_run(stopped, [], None, tmp_path / "fork")
    begin(run, before=stop_after(2))
    source, copy = (open_checkpoint(run_dir / "checkpoints" / "step-7") for run_dir in (stopped, run.run_dir))
    assert copy.manifest.files == source.manifest.files
    assert all((copy.path / name).samefile(source.path / name) for name in copy.manifest.files)
    begin(find_run(stopped, [], None, tmp_path / "fork"))  # the same command again goes on
    assert [event["step"] for event in events(run.run_dir, "start")] == [7, 9]
    assert curve(events(run.run_dir)) == unbroken[7:]


def test_a_fork_is_refused_in_words(stopped: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    recipe = stopped.parent / "recipe.yaml"
    for path, run_dir, fork, said in (
        (stopped, None, stopped, "is the run itself"),
        (stopped, None, tmp_path / "full", "is not empty and not a fork of"),
        (recipe, tmp_path / "nothing", tmp_path / "fork", "no run in .*nothing to start from"),
    ):
        with pytest.raises(CheckpointError, match=f"^--fork: .*{said}"):
            find_run(path, [], run_dir, fork)
    run = find_run(stopped, ["task.label_names=[negative, positive, mixed]"], None, tmp_path / "fork")
    with pytest.raises(
        AssertionError,
        match=r"belongs to a different model:\n  classifier\.weight: \[2, 32\] in the checkpoint, \[3, 32\] in this",
    ):
        begin(run, world_size=1)


@pytest.mark.parametrize("key", ["label_names", "types"])
def test_a_run_that_began_with_another_order_of_labels_is_not_resumed(tmp_path: Path, key: str) -> None:
    (tmp_path / FACTS).write_text(json.dumps({key: ["negative", "positive"]}))
    refuse_other_labels(tmp_path, {key: ["negative", "positive"]})
    refuse_other_labels(tmp_path / "new", {key: ["positive", "negative"]})
    with pytest.raises(CheckpointError, match=r"began with the labels negative, positive, .* now gives positive, neg"):
        refuse_other_labels(tmp_path, {key: ["positive", "negative"]})
