"""Trackers that follow a run get all of it, and can neither slow it down nor stop it."""

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import LaunchError
from shardtune.launcher.plan.job import Machine, plan_job
from shardtune.recipe.load import render_recipe
from shardtune.run_dir.files import METRICS, read_events
from shardtune.run_dir.trackers import TRACKERS
from shardtune.run_dir.trackers.tensorboard import TensorboardTracker
from shardtune.run_dir.trackers.tracker import facts_of
from shardtune.trainer.reporting.followers import Followers
from shardtune.trainer.reporting.reporter import JsonlReporter, Reporters
from tests.support.runs import tiny_recipe, train
from tests.support.tracked_run import step_event
from tests.support.tracker_readers import expected, read_tensorboard, same


def following(folder: Path, every_s: float) -> tuple[Reporters, Followers]:
    """The reporters of a run that TensorBoard follows, and the one that lets it."""
    jsonl = JsonlReporter(folder / METRICS, 0)
    followers = Followers(tiny_recipe(folder, "report.also=[tensorboard]"), folder, jsonl.report, every_s=every_s)
    return Reporters([followers, jsonl]), followers


def is_as_written(folder: Path, *, and_later: int = 0) -> bool:
    events = read_events(folder)
    found = read_tensorboard(facts_of(tiny_recipe(folder), folder))
    return same(found.points, expected(events[: len(events) - and_later]), rel=1e-7)


def report_step(reporters: Reporters, step: int, **values: Any) -> None:
    event = step_event(step, at=step) | values
    reporters.report(event.pop("event"), **{key: value for key, value in event.items() if key != "time"})


def test_a_tracker_follows_a_run_through_a_rollback_and_has_its_last_line(tmp_path: Path) -> None:
    reporters, _ = following(tmp_path, every_s=0.01)
    for step in range(1, 30):
        report_step(reporters, step)
        time.sleep(0.005)
    reporters.go_back(20)
    for step in range(21, 25):
        report_step(reporters, step, loss=2.0)
        time.sleep(0.005)
    reporters.report("done", step=24)
    reporters.close()
    assert is_as_written(tmp_path)
    assert not [event for event in read_events(tmp_path) if event["event"] == "alert"]


def test_what_is_there_before_the_first_look_is_sent_at_the_end(tmp_path: Path) -> None:
    reporters, _ = following(tmp_path, every_s=60)
    report_step(reporters, 1)
    reporters.close()
    assert is_as_written(tmp_path)


class Hanging(TensorboardTracker):
    """A tracker whose server never answers."""

    asked, over = threading.Event(), threading.Event()

    def send(self, records: Any) -> None:
        self.asked.set()
        self.over.wait(60)


class Failing(TensorboardTracker):
    """A tracker whose server refuses everything."""

    tries: list[float] = []  # noqa: RUF012

    def send(self, records: Any) -> None:
        self.tries.append(time.monotonic())
        raise ConnectionError("nobody\nlistens")


def test_a_tracker_that_hangs_holds_nothing_up_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", Hanging)
    reporters, followers = following(tmp_path, every_s=0.01)
    report_step(reporters, 1)
    assert Hanging.asked.wait(30)
    for step in range(2, 200):
        report_step(reporters, step)
    followers.close(patience_s=0.1)
    Hanging.over.set()
    *steps, alert = read_events(tmp_path)
    assert [event["step"] for event in steps] == list(range(1, 200))
    assert alert["title"] == "report.also: tensorboard is behind"
    assert alert["text"].endswith(f"shardtune replay {tmp_path} --to=tensorboard")


def test_a_tracker_that_fails_is_reported_once_and_tried_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "tensorboard", Failing)
    reporters, _ = following(tmp_path, every_s=0.01)
    report_step(reporters, 1)
    while not Failing.tries:
        time.sleep(0.01)
    time.sleep(0.1)
    report_step(reporters, 2)
    report_step(reporters, 3)
    reporters.close()
    events = read_events(tmp_path)
    assert [event["event"] for event in events].count("alert") == 1
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3]
    (alert,) = (event for event in events if event["event"] == "alert")
    assert alert["text"].startswith("ConnectionError: nobody listens. Training goes on")
    assert len(Failing.tries) == 2


def test_a_training_on_two_ranks_is_in_tensorboard_as_in_its_metrics(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny, "report.also=[tensorboard]"), tmp_path, world_size=2)
    assert is_as_written(tmp_path)
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_a_package_that_is_missing_is_an_error_before_any_rank_starts(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(render_recipe(tiny_recipe(tiny, "report.also=[tensorboard, mlflow]")), encoding="utf-8")
    machine = Machine(num_gpus=0, num_cores=2)
    assert plan_job(path, (), tmp_path / "run", machine).recipe.report.also == ("tensorboard", "mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        LaunchError, match=r"report\.also: the package mlflow is not installed; .*'shardtune\[mlflow\]'"
    ):
        plan_job(path, (), tmp_path / "run", machine)
