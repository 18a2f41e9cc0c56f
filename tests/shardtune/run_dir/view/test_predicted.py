"""What was predicted is shown beside the real numbers, as far as there are both."""

from pathlib import Path
from typing import Any

import pytest

from shardtune.run_dir.view.plan_file import PLAN, read_plan, write_plan
from shardtune.run_dir.view.predicted import compare, render_compared

RECORD = {"device": "h100", "memory_bytes": 20e9, "step_s": 2.0, "tokens_per_s": 1000.0, "run_s": 120.0}


def events(*, is_done: bool) -> list[dict[str, Any]]:
    steps = [
        {"event": "step", "step": step, "time": 110.0 + step, "memory_bytes": 25e9, "step_time_s": 2.5}
        for step in (1, 2)
    ]
    old = {"event": "step", "step": 1, "time": 50.0, "memory_bytes": 90e9, "step_time_s": 9.0, "tokens_per_s": 1.0}
    found = [
        {"event": "begin", "time": 100.0, "process_began": 100.0},
        {"event": "start", "time": 110.0, "step": 0},
        *({**step, "tokens_per_s": 800.0} for step in steps),
    ]
    done = [{"event": "done", "time": 160.0}]
    return [{"event": "start", "time": 40.0, "step": 0}, old, *found, *(done if is_done else [])]


def test_each_number_that_was_predicted_has_its_error() -> None:
    compared = {each.name: each for each in compare(RECORD, events(is_done=True))}
    assert compared["peak memory of a rank"].error == pytest.approx(-0.2)  # of the newest start alone
    assert compared["time of a step"].real == 2.5
    assert compared["tokens/s of all ranks"].error == pytest.approx(0.25)
    assert compared["time of the run"].real > 60
    table = render_compared(list(compared.values())).splitlines()
    assert table[0].split() == ["predicted", "real", "error"]
    assert table[1].split()[-5:] == ["20.00", "GB", "25.00", "GB", "-20%"]


def test_what_is_not_known_yet_or_was_not_predicted_is_left_out() -> None:
    assert "time of the run" not in {each.name for each in compare(RECORD, events(is_done=False))}
    assert [each.name for each in compare({"memory_bytes": 1e9}, events(is_done=True))] == ["peak memory of a rank"]
    assert compare(RECORD, []) == [] and compare(None, events(is_done=True)) == []
    assert render_compared([]) == ""


def test_a_plan_reads_back_and_a_damaged_one_is_none(tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    write_plan(tmp_path, RECORD)
    assert read_plan(tmp_path) == RECORD
    for text in ("{", "[]"):
        (tmp_path / PLAN).write_text(text, encoding="utf-8")
        assert read_plan(tmp_path) is None
