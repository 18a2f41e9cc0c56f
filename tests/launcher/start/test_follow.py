"""What a run writes is seen once and in order, whatever happens to its file and its clock."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.json_lines import json_line
from shardtune.launcher.start.follow import Events, outer_events
from shardtune.run_dir.files import METRICS, read_events
from shardtune.trainer.reporting.reporter import JsonlReporter


def event(number: int, *, time: float | None = None, kind: str = "step", **values: Any) -> dict[str, Any]:
    return {"event": kind, "time": float(number) if time is None else time, "step": number, **values}


def add(folder: Path, *events: dict[str, Any], raw: bytes = b"") -> None:
    with (folder / METRICS).open("ab") as file:
        file.write("".join(map(json_line, events)).encode() + raw)


def steps(events: Any) -> list[int]:
    return [event["step"] for event in events]


def test_events_after_the_clock_went_back_are_not_lost(tmp_path: Path) -> None:
    add(tmp_path, event(1, time=5.0), event(2, time=100.0))
    events = Events(tmp_path, since=10.0)
    assert steps(events.new()) == [2]
    add(tmp_path, event(3, time=40.0), event(4, time=41.0))
    assert steps(events.new()) == [3, 4]
    add(tmp_path, event(5, time=2.0))
    assert steps(events.new()) == [5] and not list(events.new())


def test_a_rewritten_file_shows_only_what_is_new(tmp_path: Path) -> None:
    reporter = JsonlReporter(tmp_path / METRICS, 0)
    for step in range(1, 6):
        reporter.report("step", step=step)
    reporter.report("alert", title="a", text="b", step=5)
    events = Events(tmp_path, since=0.0)
    assert len(list(events.new())) == 6
    reporter.go_back(3)
    reporter.report("step", step=4, loss=2.0)
    new = list(events.new())
    assert [each["event"] for each in new] == ["lost", "step"] and new[-1]["loss"] == 2.0


def test_a_line_that_is_still_being_written_is_left_for_later(tmp_path: Path) -> None:
    events = Events(tmp_path, since=0.0)
    assert not list(events.new())
    whole = json_line(event(1)).encode()
    add(tmp_path, raw=whole[:20])
    assert not list(events.new())
    add(tmp_path, raw=whole[20:])
    assert steps(events.new()) == [1]


BAD_LINES = [b"\x00" * 4096 + b"\n", b'{"event": "st\n', b"[1]\n", b"7\n", b"\xff\xfe\n", b'{"step": 3}\n', b"\n"]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_lines_that_are_no_events_are_skipped_by_every_reader(tmp_path: Path, bad: bytes) -> None:
    add(tmp_path, event(1), raw=bad)
    add(tmp_path, event(2, text="a\u2028b\x85c \x00"), raw=b'{"event": "step", "ti')
    for read in (
        lambda: Events(tmp_path, since=0.0).new(),
        lambda: outer_events(tmp_path),
        lambda: read_events(tmp_path),
    ):
        seen = list(read())
        assert steps(seen) == [1, 2] and seen[-1]["text"] == "a\u2028b\x85c \x00"


@pytest.mark.parametrize("num_bytes", [60, 500, 5_000, 2**16])
def test_the_newest_step_is_among_the_outer_events_however_long_the_lines_after_it_are(
    tmp_path: Path, num_bytes: int
) -> None:
    add(tmp_path, event(0, kind="start"), *(event(number) for number in range(1, 200)))
    add(tmp_path, event(199, kind="eval", answers=[{"answer": "x" * 3_000}] * 9))
    seen = outer_events(tmp_path, num_bytes)
    assert seen[0]["event"] == "start" and seen[-1]["event"] == "eval" and seen[-2]["step"] == 199
    assert steps(seen) == sorted(steps(seen))
    assert len(seen) == len({json.dumps(each) for each in seen})


def test_a_file_that_vanishes_has_no_events(tmp_path: Path) -> None:
    add(tmp_path, event(1))
    events = Events(tmp_path, since=0.0)
    assert steps(events.new()) == [1]
    (tmp_path / METRICS).unlink()
    assert not list(events.new()) and outer_events(tmp_path) == [] and read_events(tmp_path) == []
