"""The history of a run: the newest events at once, all of them soon after."""

import threading
from pathlib import Path

import pytest

from shardtune.launcher.runs.terminal import run_reader
from shardtune.launcher.runs.terminal.run_reader import RunReader
from tests.support.hand_made_run import life, lines, step, write_run


@pytest.fixture(autouse=True)
def short_tail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_reader, "TAIL_BYTES", 5000)
    monkeypatch.setattr(run_reader, "HEAD_BYTES", 2000)


def numbers(reader: RunReader) -> tuple[int, int]:
    """The number of points, and the newest step."""
    return len(reader.history.curves["loss"]), (reader.history.step or {})["step"]


def test_of_a_long_file_the_newest_events_come_first_and_then_all(tmp_path: Path) -> None:
    reader = RunReader(write_run(tmp_path / "r", life(200)), threading.RLock())
    assert reader.read_new()
    points, newest = numbers(reader)
    assert points < 20 and newest == 200 and reader.progress is not None
    assert reader.history.start is not None and reader.history.num_starts == 1  # from the head
    reads = 1
    while reader.read_old(max_bytes=10_000):
        reads += 1
    assert (numbers(reader), reader.progress) == ((200, 200), None) and reads > 3
    assert not reader.read_new() and not reader.read_old()


def test_what_is_written_while_older_events_are_read_is_there_once(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(100))
    reader = RunReader(run_dir, threading.RLock())
    reader.read_new()
    reader.read_old(max_bytes=10_000)
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(lines([step(101, 2e9)]))
    assert reader.read_new() and numbers(reader)[1] == 101
    while reader.read_old():
        pass
    reader.read_new()
    assert numbers(reader) == (101, 101)


def test_a_file_that_is_truncated_while_it_is_read_is_read_anew(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(200))
    reader = RunReader(run_dir, threading.RLock())
    reader.read_new()
    reader.read_old(max_bytes=10_000)
    (run_dir / "metrics.jsonl").write_bytes(lines(life(5)))
    assert not reader.read_old()
    assert reader.read_new() and numbers(reader) == (5, 5)
    assert reader.progress is None


def test_a_folder_that_vanishes_keeps_its_history(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(5))
    reader = RunReader(run_dir, threading.RLock())
    reader.read_new()
    (run_dir / "metrics.jsonl").unlink()
    assert reader.read_new() and not reader.exists
    assert numbers(reader) == (5, 5)
    assert not reader.read_new()  # told once
