"""Curves as characters."""

import math
from itertools import pairwise

import pytest

from shardtune.launcher.runs.terminal.chart_choice import Choice, ShownRun, chart, curve_names
from shardtune.launcher.runs.terminal.chart_text import DrawnLine, draw_chart
from shardtune.run_dir.follow.history import RunHistory
from tests.support.hand_made_run import life

FALLING = [(float(step), math.exp(-step / 20)) for step in range(100)]


def drawn(points: list[tuple[float, float]], *, is_log: bool = False, axis: str = "step") -> list[str]:
    text = draw_chart([DrawnLine(points, 6, "x")], 60, 12, axis=axis, is_log=is_log)  # type: ignore[arg-type]
    return text.plain.split("\n")


def history_of(num_steps: int) -> RunHistory:
    history = RunHistory()
    history.add_all(life(num_steps))
    return history


@pytest.mark.parametrize(
    "points",
    [FALLING, [(5.0, 3.0)], [(1.0, 0.0), (2.0, 0.0)], [(0.0, -1e9), (1e7, 1e-9)], [(1.0, 1e300), (2.0, -1e300)]],
)
@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("axis", ["step", "time"])
def test_a_chart_fills_its_room_exactly(points: list[tuple[float, float]], is_log: bool, axis: str) -> None:
    lines = drawn(points, is_log=is_log, axis=axis)
    assert (len(lines), {len(line) for line in lines}) == (12, {60}) or "no values yet" in "".join(lines)
    assert is_log or "x" in "".join(lines)


def test_a_falling_curve_falls_and_its_logarithm_is_straight() -> None:
    lines = [line for line in drawn(FALLING) if "x" in line]
    assert lines[0].index("x") < 8 and lines[-1].rindex("x") > 50
    steps = [line.index("x") for line in drawn(FALLING, is_log=True) if "x" in line]
    widths = [after - before for before, after in pairwise(steps)]
    assert max(widths) - min(widths) <= 3


def test_values_without_a_logarithm_are_not_drawn() -> None:
    assert "no values yet" in "".join(drawn([(1.0, 0.0), (2.0, -1.0)], is_log=True))


def test_a_time_axis_has_times() -> None:
    assert any("1:00:00" in line for line in drawn([(0.0, 1.0), (7200.0, 2.0)], axis="time"))


def test_too_little_room_is_said_and_breaks_nothing() -> None:
    assert "no room" in draw_chart([DrawnLine(FALLING, 6)], 14, 3, axis="step", is_log=False).plain


def test_several_runs_are_named_with_the_letters_of_their_lines() -> None:
    higher = RunHistory()
    higher.add_all(each | {"lr": 2e-5} for each in life(60))
    runs = [ShownRun("first", history_of(30), "cyan"), ShownRun("second-训练", higher, "yellow")]
    title, *lines = chart("lr", runs, Choice(has_letters=True))(60, 14)
    assert title.plain == " learning rate  a first 1.0e-05  b second-训练 2.0e-05"
    assert {"a", "b"} <= set("".join(line.plain for line in lines))


def test_a_single_run_has_its_dev_loss_beside_the_training_loss() -> None:
    title, *lines = chart("loss", [ShownRun("only", history_of(60), "cyan")], Choice(smoothing=0.9))(60, 14)
    assert title.plain == " loss  0.03333  o dev 0.5"
    assert "o" in "".join(line.plain for line in lines)


def test_the_main_curves_come_first_then_dev_metrics() -> None:
    names = curve_names([history_of(10)])
    assert names == [
        *("loss", "lr", "tokens_per_s", "memory_bytes"), *("dev/f1", "dev/loss"),
        *("grad_norm", "step_time_s", "lost_share"),
    ]  # fmt: skip
