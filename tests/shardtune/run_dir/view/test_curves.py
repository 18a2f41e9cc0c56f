"""Curves have axes that a reader expects, and none is drawn twice."""

import math
import re

import pytest

from shardtune.run_dir.view.chart import Series, render_chart, ticks_within
from shardtune.run_dir.view.curves import bounds_of, curves_of, same_metrics
from shardtune.run_dir.view.history import history_of


@pytest.mark.parametrize(
    ("metric", "value", "low", "high"),
    [
        ("accuracy", 1.0, 0.5, 1.0),
        ("accuracy", 0.0, 0.0, 0.5),
        ("f1_macro", 0.9, 0.4, 1.0),
        ("mcc", 1.0, 0.5, 1.0),
        ("mcc", -1.0, -1.0, -0.5),
        ("bleu", 100.0, 50.0, 100.0),
        ("perplexity", 2.0, 1.0, 3.0),
    ],
)
def test_a_constant_metric_has_an_axis_within_its_bounds(metric: str, value: float, low: float, high: float) -> None:
    ticks = ticks_within(value, value, bounds_of(metric))
    assert (ticks[0], ticks[-1]) == (pytest.approx(low), pytest.approx(high))
    assert 2 <= len(ticks) <= 8


def test_no_tick_of_an_accuracy_is_above_one() -> None:
    drawn = render_chart("accuracy", [Series("a", [(0, 0.913), (9, 0.999)], "red")], (0.0, 1.0))
    ticks = [float(text) for text in re.findall(r'text-anchor="end">([^<]*)<', drawn)]
    assert max(ticks) == 1.0 and min(ticks) <= 0.913


def test_a_value_beyond_its_bounds_is_drawn_all_the_same() -> None:
    assert max(ticks_within(0.5, 1.5, (0.0, 1.0))) >= 1.4


def test_metrics_that_are_the_same_are_one_curve_with_both_names() -> None:
    evaluations = [
        {"event": "eval", "split": "dev", "step": step, "time": 1.0, "loss": 1.0, "accuracy": a, "f1_micro": a, "x": x}
        for step, a, x in ((1, 0.5, 0.5), (2, 0.75, 0.5))
    ]
    assert same_metrics(evaluations) == [("accuracy", "f1_micro"), ("x",)]
    titles = [curve.title for curve in curves_of(history_of(evaluations))]
    assert titles == ["loss", "dev accuracy = f1_micro", "dev x"]


def test_metrics_that_are_no_numbers_once_are_drawn_without_that_point() -> None:
    values = [0.5, None, math.inf, 0.75]
    events = [
        {"event": "eval", "split": "dev", "step": at, "time": 1.0, "f1": value} for at, value in enumerate(values)
    ]
    (curve,) = curves_of(history_of(events))
    assert curve.lines[0].y.tolist() == [0.5, 0.75]


def test_a_chart_says_what_it_shows_to_those_who_do_not_see_it() -> None:
    drawn = render_chart("loss", [Series("dev", [(0, 2.0), (5, 0.5), (9, 1.0)], "red")])
    assert "<desc>2 at 0, 1 at 9; lowest 0.5 at 5, highest 2 at 0</desc>" in drawn
