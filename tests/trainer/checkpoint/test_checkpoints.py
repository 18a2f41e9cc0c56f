"""How a checkpoint comes to be: beside the training, whole or not at all, and whatever the disk says."""

import json
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shardtune.recipe.load import learning_hash
from shardtune.run_dir.files import LEASE, RESULTS, write_atomically
from shardtune.trainer.checkpoint import checkpoints as checkpoint
from shardtune.trainer.checkpoint.manifest import complete_checkpoints, damage, open_checkpoint
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.stops import at_steps, stop_after


def saved_steps(run_dir: Path) -> list[int]:
    return [event["step"] for event in events(run_dir, "checkpoint")]


def steps_on_disk(run_dir: Path) -> list[int]:
    return [checkpoint.step for checkpoint in complete_checkpoints(run_dir / "checkpoints")]


def test_a_checkpoint_says_what_it_is_and_is_on_disk_when_the_run_stops(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.eval_every_steps=3")
    train(recipe, tmp_path, world_size=2, before=stop_after(3))
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-3"]
    assert (folder / "latest").read_text() == "step-3"
    checkpoint = open_checkpoint(folder / "step-3")
    manifest = checkpoint.manifest
    assert sorted(path.name for path in checkpoint.path.iterdir()) == ["manifest.json", *sorted(manifest.files)]
    assert len(manifest.files) == 4
    assert damage(checkpoint, manifest.files) is None
    (dev,) = events(tmp_path, "eval")
    assert manifest.metric("accuracy") == dev["accuracy"] == manifest.state.best_value
    assert (manifest.step, manifest.state.samples_seen) == (3, 36)
    assert manifest.recipe_hash == learning_hash(recipe)
    assert manifest.layout == {"world_size": 2, "zero_stage": 2, "precision": "fp32"}
    assert {"torch", "deepspeed", "transformers"} <= manifest.versions.keys()
    (event,) = events(tmp_path, "checkpoint")
    assert (
        event["num_bytes"]
        == manifest.num_bytes
        == sum(path.stat().st_size for path in checkpoint.path.glob("*.safetensors"))
    )
    assert 0 < event["stall_s"] <= event["written_s"]


@pytest.mark.parametrize(
    ("overrides", "due"),
    [  # 6 steps an epoch
        ([], {6, 12, 18}),
        (["checkpoint.every_steps=5"], {5, 10, 15, 18}),
        (["checkpoint.every_minutes=1e-9", "train.max_steps=4"], {1, 2, 3, 4}),
        (["checkpoint.every_minutes=60", "train.max_steps=4"], {4}),
    ],
    ids=["after-evaluations", "every-steps", "every-minutes", "every-hour"],
)
@pytest.mark.parametrize(("keep_last", "keep_best"), [(1, 1), (2, 2)])
def test_what_is_due_is_saved_and_the_last_and_the_best_stay(
    tiny: Path, tmp_path: Path, overrides: list[str], due: set[int], keep_last: int, keep_best: int
) -> None:
    keep = [f"checkpoint.keep_last={keep_last}", f"checkpoint.keep_best={keep_best}"]
    train(tiny_recipe(tiny, *overrides, *keep, "checkpoint.best_metric=loss"), tmp_path, world_size=1)
    losses = {event["step"]: event["loss"] for event in events(tmp_path, "eval") if event["split"] == "dev"}
    new_bests = {step for step in losses if all(losses[step] < losses[earlier] for earlier in losses if earlier < step)}
    assert saved_steps(tmp_path) == sorted(due | new_bests)
    best = sorted((losses[step], step) for step in losses if step in due | new_bests)[:keep_best]
    assert steps_on_disk(tmp_path) == sorted({*sorted(due | new_bests)[-keep_last:], *(step for _, step in best)})


def hold_writers(until: Callable[[], bool], patience_s: float) -> None:
    """Breaks this process: a disk that takes nothing until then."""
    write = checkpoint.write_fragments

    def held(*args: Any) -> None:
        began = time.monotonic()
        while time.monotonic() - began < patience_s:
            if until():
                return write(*args)
            time.sleep(0.01)
        raise TimeoutError("the training waited for the disk")

    checkpoint.write_fragments = held


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_step_waits_for_the_copy_and_not_for_the_disk(tiny: Path, tmp_path: Path, asynchronous: bool) -> None:
    recipe = tiny_recipe(
        tiny, "checkpoint.every_steps=2", "train.max_steps=5", f"checkpoint.asynchronous={asynchronous}".lower()
    )

    def two_steps_later() -> bool:
        return events(tmp_path, "step")[-1]["step"] >= 4

    patience_s = 60 if asynchronous else 0.5
    train(recipe, tmp_path, world_size=1, before=lambda: hold_writers(two_steps_later, patience_s))
    said = [(event["event"], event["step"]) for event in events(tmp_path, "step", "checkpoint", "alert")]
    if asynchronous:
        # One at a time: that of step 4 begins when that of step 2 is there.
        assert said.index(("checkpoint", 2)) > said.index(("step", 4))
        assert saved_steps(tmp_path) == [2, 4, 5]
    else:  # as it would be if the writing were not beside the training
        assert said.index(("alert", 2)) < said.index(("step", 3))


def test_a_writer_that_fails_ends_the_run_at_a_next_step_on_all_ranks(tiny: Path, tmp_path: Path) -> None:
    def break_rank_one() -> None:
        import os

        if os.environ["RANK"] == "1":

            def broken(*_: Any) -> None:
                raise ValueError("a mistake of ours")

            checkpoint.write_fragments = broken

    recipe = tiny_recipe(tiny, "checkpoint.every_steps=2")
    with pytest.raises(AssertionError, match=r"RuntimeError: on rank 1:\n(.*\n)+.*ValueError: a mistake of ours"):
        train(recipe, tmp_path, world_size=2, before=break_rank_one)
    assert events(tmp_path, "step")[-1]["step"] <= 6
    assert steps_on_disk(tmp_path) == []


def limit_files(num_bytes: int) -> None:
    """No file of this process may be larger: its writes then fail as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def no_room(num_bytes: int | None) -> None:
    usage = shutil.disk_usage
    checkpoint.shutil = SimpleNamespace(  # type: ignore[assignment]
        disk_usage=lambda path: usage(path)._replace(free=num_bytes) if num_bytes is not None else usage(path),
        rmtree=shutil.rmtree,
    )


def vanish(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("/proc")  # where nobody can make a folder


def come_back(folder: Path) -> None:
    folder.unlink()
    folder.with_name("elsewhere").rename(folder)


@pytest.mark.parametrize("harm", ["full while writing", "full before", "vanished"])
def test_a_disk_that_refuses_costs_its_checkpoint_and_nothing_else(tiny: Path, tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "checkpoints"
    deeds, said = {
        "full while writing": ((lambda: limit_files(90_000), lambda: limit_files(2**40)), "File too large"),
        "full before": (
            (lambda: no_room(1000), lambda: no_room(None)),
            "has 0.00 GB free; the checkpoint needs 0.00 GB",
        ),
        "vanished": ((lambda: vanish(folder), lambda: come_back(folder)), str(folder)),
    }[harm]
    keys = ["every_steps=2", "keep_last=1", "asynchronous=false"]  # what was saved is published before the harm
    overrides = [*(f"checkpoint.{key}" for key in keys), "train.max_steps=8", "data.dev=null"]

    def come_to_an_end() -> None:
        deeds[1]()
        (tmp_path / "kept").write_text(str(steps_on_disk(tmp_path)))

    after = at_steps({3: deeds[0], 7: come_to_an_end})
    ended, _ = train(tiny_recipe(tiny, *overrides), tmp_path, world_size=1, before=after)
    assert ended == [True]
    assert [step for step, *_ in curve(events(tmp_path))] == [*range(1, 9)]
    alerts = events(tmp_path, "alert")
    assert [alert["title"] for alert in alerts] == [f"the checkpoint of step {n} was not saved" for n in (4, 6)]
    assert all(said in alert["text"] for alert in alerts)
    assert all("Training continues; the newest checkpoint is of step 2" in alert["text"] for alert in alerts)
    assert (tmp_path / "kept").read_text() == "[2]"
    assert saved_steps(tmp_path) == [2, 8]
    assert sorted(path.name for path in folder.iterdir()) == ["latest", "step-8"]


def test_a_run_whose_last_checkpoint_is_not_on_disk_is_not_finished(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.max_steps=2", "data.dev=null")
    with pytest.raises(AssertionError, match="its last checkpoint could not be saved"):
        train(recipe, tmp_path, world_size=1, before=lambda: no_room(0))
    assert not (tmp_path / RESULTS).exists()
    assert train(recipe, tmp_path, world_size=1)[0] == [True]


def test_drafts_of_a_run_that_was_killed_are_taken_away(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".step-1").mkdir(parents=True)
    train(tiny_recipe(tiny, "train.max_steps=2", "data.dev=null"), tmp_path, world_size=1)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["latest", "step-2"]


@pytest.mark.parametrize(("method", "left"), [("_manifest", set()), ("_write", {".step-2"})])
def test_a_start_that_is_taken_over_in_the_middle_of_a_save_publishes_nothing(
    tiny: Path, tmp_path: Path, method: str, left: set[str]
) -> None:
    def taken_over() -> None:
        original = getattr(checkpoint.Checkpoints, method)

        def before_or_after(self: Any, *args: Any) -> Any:
            value = original(self, *args)
            lease = tmp_path / LEASE
            write_atomically(lease, json.dumps(json.loads(lease.read_text()) | {"token": "another"}))
            return value

        setattr(checkpoint.Checkpoints, method, before_or_after)

    with pytest.raises(AssertionError, match="TakenOverError"):
        train(tiny_recipe(tiny, "checkpoint.every_steps=2"), tmp_path, world_size=1, before=taken_over)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == left
