"""What a tracker's own reader finds is what metrics.jsonl says, each point once, whatever happened on the way."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import LaunchError
from shardtune.run_dir.files import METRICS, read_events
from shardtune.run_dir.trackers import TRACKERS
from shardtune.run_dir.trackers.mlflow import mlflow_name
from shardtune.run_dir.trackers.replay import FOLDER, Replay
from shardtune.run_dir.trackers.tracker import RunFacts, Target
from tests.support.tracked_run import BEGAN, FIRST_START, SAMPLES, SECOND_START, WHOLE, add_events, step_event
from tests.support.tracked_run import write_events as write
from tests.support.tracker_readers import Found, expected, read_mlflow, read_tensorboard, read_trackio, same

READERS: dict[str, Callable[[RunFacts], Found]] = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "trackio": read_trackio,
}
EACH = pytest.mark.parametrize("name", READERS)
CONFIG = {"optim.lr": 2e-5, "model.path": "modèle/小", "train.patience": 3, "report.also": "a, b"}
FLOAT32 = 1e-7


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps everything in the test's folder, and lets nothing into the network."""
    import trackio.sqlite_storage
    import trackio.utils

    for module in (trackio.utils, trackio.sqlite_storage):
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def refuse(_: socket.socket, address: Any) -> None:
        raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def facts(tmp_path: Path) -> RunFacts:
    (tmp_path / "run").mkdir()
    return RunFacts(tmp_path / "run", "proj", "rün 1", "a group", CONFIG)


def replayed(facts: RunFacts, name: str, say: Callable[[str], None] = print) -> int:
    """Replays as `shardtune replay` does; returns the number of records that were sent."""
    replay = Replay(facts.run_dir, name, TRACKERS[name](facts, Target()), say)
    number = replay.catch_up()
    replay.close()
    return number


def is_as_written(facts: RunFacts, name: str) -> bool:
    """Whether the tracker has the points of metrics.jsonl, and no others."""
    renamed = mlflow_name if name == "mlflow" else str
    rel = FLOAT32 if name == "tensorboard" else 0.0
    return same(READERS[name](facts).points, expected(read_events(facts.run_dir)), rel=rel, renamed=renamed)


@EACH
def test_every_number_arrives_with_its_step_and_its_time(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE, end='{"event": "step", "st')
    replayed(facts, name)
    assert is_as_written(facts, name)
    loss = sorted(READERS[name](facts).points["train/loss"])
    assert [(step, round(time - BEGAN, 3)) for step, time, _ in loss] == [(1, 2.0), (2, 3.125), (3, 19.0)]


@EACH
def test_a_changed_number_is_seen(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE)
    replayed(facts, name)
    write(facts.run_dir, [*WHOLE[:2], WHOLE[2] | {"grad_norm": 0.3334}, *WHOLE[3:]])
    assert not is_as_written(facts, name)


@EACH
def test_settings_samples_and_alerts_arrive_as_they_are(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE)
    replayed(facts, name)
    found = READERS[name](facts)
    wanted = {key: str(float(value)) if isinstance(value, int) else str(value) for key, value in CONFIG.items()}
    assert {key: str(float(v)) if v.isdigit() else v for key, v in found.config.items()} == wanted
    assert found.tables == {"eval/answers": SAMPLES}
    assert found.texts == ["loss spike at step 4: the löss is 9"]


@EACH
def test_a_replay_that_is_repeated_sends_nothing(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE)
    assert replayed(facts, name) == len(expected_records())
    assert replayed(facts, name) == 0
    assert is_as_written(facts, name)


def expected_records() -> list[dict[str, Any]]:
    return [event for event in WHOLE if event["event"] not in ("begin", "start", "done")]


@EACH
def test_a_run_that_goes_on_is_added_to(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, FIRST_START)
    said: list[str] = []
    replayed(facts, name)
    add_events(facts.run_dir, SECOND_START)
    assert 0 < replayed(facts, name, said.append) < len(expected_records())
    assert is_as_written(facts, name) and not said


@EACH
def test_steps_that_were_dropped_and_done_again_are_there_once(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, [*FIRST_START, step_event(3, at=6, loss=7.0), step_event(4, at=7, loss=9.0)])
    said: list[str] = []
    replayed(facts, name)
    write(facts.run_dir, WHOLE)
    replayed(facts, name, said.append)
    assert is_as_written(facts, name)
    assert "a resume or a rollback has dropped steps" in said[0]


@EACH
def test_a_rollback_while_a_tracker_follows_leaves_each_step_once(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, FIRST_START)
    replay = Replay(facts.run_dir, name, TRACKERS[name](facts, Target()), print)
    replay.catch_up()
    add_events(facts.run_dir, [step_event(3, at=6, loss=7.0)])
    replay.catch_up()
    write(facts.run_dir, WHOLE)
    replay.catch_up()
    replay.close()
    assert is_as_written(facts, name)


@EACH
def test_a_replay_that_was_interrupted_is_whole_after_the_next(
    facts: RunFacts, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(facts.run_dir, WHOLE)
    adapter = TRACKERS[name]
    send = adapter.send

    def killed(self: Any, records: Any) -> None:
        send(self, records[:3])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(adapter, "send", killed)
        replayed(facts, name)
    replayed(facts, name)
    assert is_as_written(facts, name)


@EACH
def test_a_run_that_was_deleted_in_the_tracker_is_sent_again(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE)
    replayed(facts, name)
    (kept,) = (facts.run_dir / FOLDER).glob(f"{name}-*.json")
    TRACKERS[name](facts, Target()).delete(json.loads(kept.read_text())["run"])
    replayed(facts, name)
    assert is_as_written(facts, name)


def test_lines_that_are_no_events_are_counted_and_skipped(facts: RunFacts) -> None:
    write(facts.run_dir, WHOLE)
    whole = (facts.run_dir / METRICS).read_bytes()
    (facts.run_dir / METRICS).write_bytes(b"\x00" * 512 + b"\n[1]\n\xff\n" + whole)
    replay = Replay(facts.run_dir, "tensorboard", TRACKERS["tensorboard"](facts, Target()), print)
    assert replay.catch_up() == len(expected_records())
    assert replay.num_skipped == 3


def test_two_runs_of_one_name_do_not_mix_in_a_folder_of_tensorboard(facts: RunFacts, tmp_path: Path) -> None:
    other = RunFacts(tmp_path / "other", facts.project, facts.name, None, {})
    for each in (facts, other):
        write(each.run_dir, WHOLE)
    target = Target(out=tmp_path / "boards")
    Replay(facts.run_dir, "tensorboard", TRACKERS["tensorboard"](facts, target), print).catch_up()
    with pytest.raises(LaunchError, match="has the event files of another run; give another --name"):
        Replay(other.run_dir, "tensorboard", TRACKERS["tensorboard"](other, target), print).catch_up()


def test_a_run_directory_that_is_moved_is_not_sent_again(facts: RunFacts, tmp_path: Path) -> None:
    write(facts.run_dir, WHOLE)
    replayed(facts, "tensorboard")
    moved = RunFacts(facts.run_dir.rename(tmp_path / "moved"), facts.project, facts.name, facts.group, CONFIG)
    assert replayed(moved, "tensorboard") == 0
    assert is_as_written(moved, "tensorboard")


def test_trackio_refuses_a_network_file_system_where_its_database_is_not_safe(
    facts: RunFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trackio.utils.is_network_filesystem", lambda _: True)
    with pytest.raises(LaunchError, match="set TRACKIO_DIR to a folder of this machine"):
        TRACKERS["trackio"](facts, Target())


def test_a_name_that_mlflow_refuses_is_written_with_code_points() -> None:
    assert mlflow_name("eval/f1/R&D, 研究/../") == "eval/f1/R-26D-2c 研究/-/-"
    assert mlflow_name("train/loss") == "train/loss"


@EACH
def test_mlflow_and_the_others_know_how_the_run_ended(facts: RunFacts, name: str) -> None:
    write(facts.run_dir, WHOLE)
    replayed(facts, name)
    (kept,) = (facts.run_dir / FOLDER).glob(f"{name}-*.json")
    assert json.loads(kept.read_text())["end"] == "finished"
