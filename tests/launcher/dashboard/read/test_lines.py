"""Columns are the numbers of the file, whatever else is in it."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.launcher.dashboard.read.lines import parse_lines, step_line_in, without_most_steps
from tests.launcher.dashboard.conftest import DAMAGED, step, text_of

numbers = st.none() | st.floats() | st.integers(-(2**60), 2**60)


@given(st.lists(st.tuples(numbers, numbers), max_size=20))
def test_columns_are_the_numbers_of_the_file(rows: list[tuple[Any, Any]]) -> None:
    events = [step(number, loss=loss, lr=lr) for number, (loss, lr) in enumerate(rows)]
    lines = parse_lines(text_of(events).encode(), ["loss", "lr", "none"])
    assert lines.steps["step"].tolist() == list(range(len(rows)))
    for key in ("loss", "lr"):
        expected = [float("nan") if event[key] is None else float(event[key]) for event in events]
        assert np.array_equal(lines.steps[key], expected, equal_nan=True)
    assert np.isnan(lines.steps["none"]).all()


def test_what_is_damaged_is_dropped_and_counted_and_the_rest_is_read() -> None:
    events = [step(1, loss=1.0), *DAMAGED, {"event": "eval", "time": 2.0}, step(2, loss=2.0)]
    lines = parse_lines(text_of(events).encode("utf-8", "surrogatepass"), ["loss"])
    assert (lines.steps["step"].tolist(), lines.steps["loss"].tolist()) == ([1.0, 2.0], [1.0, 2.0])
    assert [(place, event["event"]) for place, event in lines.others] == [(1, "eval")]
    assert lines.num_damaged == len(DAMAGED)


@pytest.mark.parametrize("odd", ["\x85", "\u2028", "\0", "\ud800", "<script>", "\\u0000", "\x1f"])
def test_any_text_may_stand_in_an_event(odd: str) -> None:
    for is_ascii in (True, False):
        event = {**step(1, loss=0.5), "note": odd}
        text = f"{json.dumps(event, ensure_ascii=is_ascii)}\n{json.dumps(step(2, loss=0.25))}\n"
        lines = parse_lines(text.encode("utf-8", "surrogatepass"), ["loss"])
        assert lines.steps["loss"].tolist() == [0.5, 0.25]


def test_other_writers_of_json_are_understood_and_a_crash_of_the_machine_too() -> None:
    compact = json.dumps(step(1, loss=0.5), separators=(",", ":"))
    turned = json.dumps(dict(reversed(step(2, loss=0.25).items())))
    lines = parse_lines(f"{compact}\n\0\0\0{turned}\r\n\0\0\n{{}}\n".encode(), ["loss"])
    assert lines.steps["loss"].tolist() == [0.5, 0.25] and lines.num_damaged == 1


def test_the_last_step_and_the_lines_that_are_enough_for_a_table() -> None:
    data = text_of([step(1), step(2), {"event": "eval", "time": 1.0}, step(3), "half"]).encode()
    assert step_line_in(data) == step(3)
    assert step_line_in(b"") is None
    assert without_most_steps(data) == text_of([step(1), {"event": "eval", "time": 1.0}, step(3), "half"]).encode()
