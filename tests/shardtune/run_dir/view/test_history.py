"""A history says of a run what its lines say, in columns, whatever has become of the file."""

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtune.run_dir.files import METRICS
from shardtune.run_dir.view import event_lines
from shardtune.run_dir.view import history as history_module
from shardtune.run_dir.view.event_lines import STEP_LINE, read_milestones
from shardtune.run_dir.view.history import FEW_LINES, history_of, read_history
from shardtune.run_dir.view.results import render_time
from shardtune.run_dir.view.time_use import time_use

Event = dict[str, Any]


def life() -> list[Event]:
    """Two starts with evaluations, a failure between them and steps of every kind."""
    random.seed(4)
    events: list[Event] = []
    now = 1000.0

    def add(kind: str, **values: Any) -> None:
        nonlocal now
        now += random.random()
        events.append({"event": kind, "time": now, **values})

    for first, last in ((1, 300), (301, 500)):
        add("begin", process_began=now - 3, launched=now - 9)
        add("start", step=first - 1, num_steps=500)
        for step in range(first, last + 1):
            if step == 290:
                add("lost", step=280, num_steps=10, seconds=7.0)
            if step % 3 == 0:  # report.every_steps
                share = {} if step % 9 else {"lost_share": 0.1, "slowest_rank": 1, "slowest_host": "a"}
                waited = None if step == 150 else random.random() / 10
                measured = {"padding_efficiency": random.random(), "data_wait_s": waited, **share}
                gpu = {"slowest_gpu": 2} if share else {}
                add("step", step=step, loss=random.random(), step_time_s=random.random(), **measured, **gpu)
            if step % 100 == 0:
                add("phase", name="evaluating on dev")
                add("phase", name=None)
                add("eval", split="dev", step=step, loss=0.5)
    add("done")
    return events


def write(run_dir: Path, events: list[Event], more: bytes = b"") -> Path:
    (run_dir / METRICS).write_bytes("".join(f"{json.dumps(event)}\n" for event in events).encode() + more)
    return run_dir


@pytest.mark.parametrize("block_bytes", [1 << 24, 5_000, 100])
def test_the_time_went_to_the_same_as_by_all_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(event_lines, "BLOCK_BYTES", block_bytes)
    events = life()
    condensed = read_history(write(tmp_path, events)).events
    assert time_use(condensed).seconds == pytest.approx(time_use(events).seconds)
    if block_bytes > 5_000:
        assert len([event for event in condensed if event["event"] == "step"]) <= 8


def test_arrow_and_json_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, life())
    by_arrow = read_history(tmp_path)
    monkeypatch.setattr(history_module, "FEW_LINES", 10**9)
    by_json = read_history(tmp_path)
    for key in ("step", "time", "loss", "data_wait_s", "padding_efficiency"):
        np.testing.assert_array_equal(by_arrow.steps[key], by_json.steps[key])
    assert np.isnan(by_arrow.steps["data_wait_s"]).sum() == 1


def test_lines_of_a_million_steps_are_read_by_arrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = []
    monkeypatch.setattr(
        history_module, "parse_event", lambda line, parse=history_module.parse_event: parsed.append(line) or parse(line)
    )
    steps = [{"event": "step", "time": float(step), "step": step, "loss": 1.0} for step in range(1, 5001)]
    history = read_history(write(tmp_path, steps))
    assert len(history.steps["step"]) == 5000 and len(history.events) == 1
    assert parsed == []


def test_a_line_that_is_no_event_is_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    steps = [{"event": "step", "time": float(step), "step": step, "loss": 1.0} for step in range(1, 201)]
    damaged = b'\0\0\0\n{"event": "step", "time": 1, "ste\n[1]\n{"event": 3}\n\xff\n' + STEP_LINE + b', "loss": 2}\n'
    whole = b'{"event": "step", "time": 201, "step": 201, "loss": NaN}\n{"event": "done", "time": 202}\n'
    history = read_history(write(tmp_path, steps, damaged + whole + b'{"event": "st'))
    assert history.num_unreadable == 6
    assert history.steps["step"].tolist() == list(range(1, 202))
    assert math.isnan(history.steps["loss"][-1]) and history.of_steps("loss")[0][-1] == 200
    assert [event["event"] for event in history.events] == ["step", "done"]


def test_steps_that_were_done_again_are_there_once(tmp_path: Path) -> None:
    numbers = [*range(1, 100), *range(80, 120)]
    steps = [{"event": "step", "time": 0.0, "step": step, "loss": float(at)} for at, step in enumerate(numbers)]
    history = read_history(write(tmp_path, steps))
    assert history.steps["step"].tolist() == list(range(1, 120))
    assert history.steps["loss"][79] == 99.0  # that of the second time


@pytest.mark.parametrize("number", [5, FEW_LINES * 2])
def test_the_ranks_that_were_waited_for_are_added_up_by_where_they_run(tmp_path: Path, number: int) -> None:
    def slow(step: int) -> Event:
        place = {"slowest_rank": step % 2, "slowest_host": "甲", "slowest_gpu": None if step % 2 else 3}
        return {"event": "step", "time": 1.0, "step": step, "loss": 1.0, "lost_share": 0.25, **place}

    waited_for = read_history(write(tmp_path, [slow(step) for step in range(1, number + 1)])).waited_for
    assert waited_for == {"rank 1 (甲)": 0.25 * ((number + 1) // 2), "rank 0 (甲, GPU 3)": 0.25 * (number // 2)}


def test_a_history_until_a_step_has_nothing_after_it() -> None:
    history = history_of(life()).until(150)
    assert history.steps["step"].max() == 150
    assert all(event.get("step", 0) <= 150 for event in history.events)


def test_milestones_have_the_last_step_of_each_row_of_them(tmp_path: Path) -> None:
    events = life()
    milestones = read_milestones(write(tmp_path, events, b'{"event": "step", "st'))
    others = [event for event in events if event["event"] != "step"]
    assert [event for event in milestones if event["event"] != "step"] == others
    assert render_time(milestones, None, 0.0) == render_time(events, None, 0.0)
    assert len(milestones) < len(events) / 3


def test_a_run_without_metrics_has_an_empty_history(tmp_path: Path) -> None:
    history = read_history(tmp_path)
    assert history.events == [] and history.of_steps("loss")[0].size == 0
