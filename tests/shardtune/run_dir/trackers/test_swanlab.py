"""What SwanLab's own reader finds in the folder of an offline run is what metrics.jsonl says."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.sdk.internal.core_python.store import DataStoreReader

from shardtune.run_dir.files import read_events
from shardtune.run_dir.trackers.replay import Replay
from shardtune.run_dir.trackers.swanlab import SwanlabTracker
from shardtune.run_dir.trackers.tracker import RunFacts, Target
from tests.support.tracked_run import FIRST_START, SAMPLES, SECOND_START, WHOLE, add_events, write_events
from tests.support.tracker_readers import Points, expected, same


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket, address: Any) -> None:
        raise AssertionError(f"something connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def replayed(run_dir: Path) -> int:
    """Replays as `shardtune replay` does; returns the number of records that were sent."""
    facts = RunFacts(run_dir, "ein Projekt", "rün 1", None, {"optim.lr": 2e-5, "model.path": "modèle"})
    replay = Replay(run_dir, "swanlab", SwanlabTracker(facts, Target()), print)
    number = replay.catch_up()
    replay.close()
    return number


def points(run_dir: Path) -> Points:
    """The points of the only run; SwanLab's times are those of the replay, and are left out."""
    (file,) = (run_dir / "swanlog").glob("run-*/*.swanlab")
    reader = DataStoreReader()
    reader.open(file)
    found: Points = {}
    for content in reader:
        record = Record()
        record.ParseFromString(content)
        if record.HasField("scalar"):
            found.setdefault(record.scalar.key, []).append((record.scalar.step, 0.0, record.scalar.value.number))
    return found


def is_as_written(run_dir: Path) -> bool:
    wanted = expected(read_events(run_dir))
    return same(
        points(run_dir), {name: [(step, 0.0, value) for step, _, value in all_] for name, all_ in wanted.items()}
    )


def test_every_number_and_text_arrives_and_no_second_time(tmp_path: Path) -> None:
    run_dir = write_events(tmp_path / "run", WHOLE)
    assert replayed(run_dir) == 10 and replayed(run_dir) == 0
    assert is_as_written(run_dir)
    texts = [path.read_text(encoding="utf-8") for path in (run_dir / "swanlog").glob("run-*/media/text/*.txt")]
    samples, alert = sorted(texts)
    assert json.loads(samples) == SAMPLES and alert == "loss spike at step 4: the löss is 9"


def test_a_run_that_goes_on_is_written_again_as_a_whole(tmp_path: Path) -> None:
    run_dir = write_events(tmp_path / "run", FIRST_START)
    replayed(run_dir)
    add_events(run_dir, SECOND_START)
    assert replayed(run_dir) == 10
    assert is_as_written(run_dir)
