"""The verdict: worse only beyond chance and for all data sets together, and the time until shardtune is as good."""

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks.quality.cases import CASES, Row
from benchmarks.quality.plot import draw
from benchmarks.quality.sides import OURS, PEER, Reached, curve_of
from benchmarks.quality.verdict import Compared, Verdict, compare, holm, render

REVIEWS = CASES[0]
ROWS: list[Row] = [{"text": str(number), "label": "ab"[number % 2]} for number in range(400)]


def answers(accuracy: float, seed: int) -> list[str]:
    is_right = np.random.default_rng(seed).random(len(ROWS)) < accuracy
    return [row["label"] if right else "c" for row, right in zip(ROWS, is_right, strict=True)]


def reached(
    ours: float, peer: float, *, curve: tuple[float, ...] = (0.5, 0.8, 0.9), target: float = 0.8
) -> list[Reached]:
    found = []
    for seed in (1, 2, 3):
        points = [(10.0 * at, value) for at, value in enumerate(curve, start=1)]
        found.append(Reached(OURS, seed, answers(ours, seed), curve[-1], points[-1][0], 50, points))
        found.append(Reached(PEER, seed, answers(peer, seed + 10), target, 80, 90, [(80, target)]))
    return found


def test_a_clear_loss_of_accuracy_fails() -> None:
    verdict = Verdict([compare(REVIEWS, ROWS, reached(0.75, 0.85))])
    assert verdict.compared[0].difference == pytest.approx(-0.1, abs=0.04)
    assert verdict.faults[0].startswith("reviews: accuracy is 0.")
    assert "FAILED reviews: accuracy" in render(verdict)


def test_equal_sides_and_a_clear_gain_pass() -> None:
    for ours in (0.85, 0.95):
        verdict = Verdict([compare(REVIEWS, ROWS, reached(ours, 0.85))])
        assert verdict.faults == [] and "on no data set significantly worse" in render(verdict)
        low, high = verdict.compared[0].interval
        assert low <= verdict.compared[0].difference <= high


def test_the_time_is_that_of_the_first_evaluation_that_reaches_the_peers_last_metric() -> None:
    found = compare(REVIEWS, ROWS, reached(0.85, 0.85))
    assert (found.reached_s, found.has_reached, found.time_ratio) == (20.0, True, 0.25)


def test_a_target_that_is_never_reached_takes_the_whole_training() -> None:
    found = compare(REVIEWS, ROWS, reached(0.85, 0.85, target=0.95))
    assert (found.reached_s, found.has_reached) == (30.0, False)
    assert "30.0 s (end)" in render(Verdict([found]))


def test_more_than_half_of_the_peers_time_fails() -> None:
    found = compare(REVIEWS, ROWS, reached(0.85, 0.85, curve=(0.1, 0.2, 0.3, 0.4, 0.9)))
    assert found.time_ratio == 50 / 80
    assert Verdict([found]).faults == ["reviews: took 0.62 of the peer's time, more than 0.5"]


def test_holm_multiplies_the_least_by_all_and_never_falls() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_what_is_worse_on_one_of_three_by_chance_passes_after_holm() -> None:
    one = compare(REVIEWS, ROWS, reached(0.85, 0.85))
    unlucky = replace(one, name="unlucky", difference=-0.02, p=0.03)
    assert Verdict([unlucky]).faults and not Verdict([unlucky, one, one]).faults


def test_seconds_are_those_of_steps_alone() -> None:
    events = [
        {"event": "start", "time": 0.0},
        {"event": "step", "step": 1, "time": 5.0, "step_time_s": 2.0},
        {"event": "eval", "split": "dev", "step": 1, "accuracy": 0.5},
        {"event": "step", "step": 2, "time": 90.0, "step_time_s": 3.0},
        {"event": "eval", "split": "dev", "step": 2, "accuracy": 0.75},
        {"event": "eval", "split": "test", "step": 2, "accuracy": 0.7},
    ]
    assert curve_of(events, "accuracy") == [(2.0, 0.5), (5.0, 0.75)]


def test_the_picture_has_a_chart_for_each_data_set() -> None:
    one: Compared = compare(REVIEWS, ROWS, reached(0.85, 0.85))
    drawn = ElementTree.fromstring(draw([one, replace(one, name="entities")]))
    assert len([child for child in drawn if child.tag.endswith("svg")]) == 2
