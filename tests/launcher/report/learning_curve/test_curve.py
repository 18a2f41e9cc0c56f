"""A learning curve says in words what its law allows to say, and no more."""

import math
import re
from xml.etree import ElementTree

import pytest

from shardtune.launcher.report.learning_curve.curve import CurvePoint, LearningCurve, rows_of_table, sentence
from shardtune.launcher.report.learning_curve.drawing import draw

ROWS = (100, 300, 1000, 3000)


def curve_of(values: dict[int, list[float]], metric: str = "test/accuracy", *, lower: bool = False) -> LearningCurve:
    most = max(values)
    points = [CurvePoint(rows / most, rows, value) for rows, found in values.items() for value in found]
    return LearningCurve(metric, lower, points)


def falling(exponent: float, *, noise: float = 0.0, floor: float = 0.0) -> dict[int, list[float]]:
    """Accuracies of three seeds whose error falls by a power law."""
    return {rows: [1 - (2 * rows**-exponent + floor) * (1 + noise * shift) for shift in (-1, 0, 1)] for rows in ROWS}


def test_a_clear_fall_says_that_more_rows_would_help_and_by_how_much() -> None:
    said = sentence(curve_of(falling(0.5, noise=0.01)))
    assert said.startswith("More rows would help: twice as many would take about 29% off the error")
    values = [float(number) for number in re.findall(r"0\.\d{4}", said)]
    assert values[0] == pytest.approx(1 - 2 * 3000**-0.5, abs=2e-3)  # now
    assert values[1] == pytest.approx(1 - 2 * 6000**-0.5, abs=2e-3) and "6,000" in said and "12,000" in said


def test_a_fall_of_less_than_two_percent_helps_little() -> None:
    assert sentence(curve_of(falling(0.02, noise=0.001))).startswith("More rows would help little: twice as many")


def test_what_noise_hides_is_left_open() -> None:
    values = {100: [0.70], 300: [0.74], 1000: [0.73]}
    assert sentence(curve_of(values)).startswith("These runs do not tell whether more rows would help; more fractions")


def test_an_error_that_rises_does_not_help() -> None:
    values = {rows: [1 - 0.1 * rows**0.2 * shift for shift in (0.99, 1.01)] for rows in ROWS}
    assert sentence(curve_of(values)).startswith("More rows would not help")


def test_three_fractions_say_that_they_cannot_show_a_floor_and_four_name_it() -> None:
    three = {rows: values for rows, values in falling(0.5, noise=0.01).items() if rows > 100}
    assert "which three fractions cannot show" in sentence(curve_of(three))
    said = sentence(curve_of(falling(0.5, noise=0.001, floor=0.05)))
    assert "an error of 0.05" in said and "remains with any number of rows" in said


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({100: [0.9], 300: [0.95]}, "needs runs on at least three fractions"),
        ({100: [0.9], 300: [0.95], 1000: [1.0]}, "is at its best already"),
        ({100: [0.5], 300: [0.5], 1000: [0.5]}, "The rows make no difference"),
    ],
)
def test_runs_without_a_law_say_why(values: dict[int, list[float]], said: str) -> None:
    curve = curve_of(values)
    assert said in sentence(curve)
    assert ElementTree.fromstring(draw(curve)).tag.endswith("svg")


def test_a_loss_falls_and_a_score_of_100_rises() -> None:
    losses = curve_of({rows: [3 * rows**-0.3 + 0.1] for rows in ROWS}, "test/loss", lower=True)
    assert losses.best == 0 and losses.expected(6000).value == pytest.approx(3 * 6000**-0.3 + 0.1, rel=1e-3)
    bleu = curve_of({rows: [100 - 200 * rows**-0.3] for rows in ROWS}, "test/bleu")
    assert bleu.best == 100 and bleu.expected(6000).value == pytest.approx(100 - 200 * 6000**-0.3, rel=1e-3)
    assert bleu.expected(6000).low <= bleu.expected(6000).value <= bleu.expected(6000).high


def test_the_table_has_what_was_measured_and_then_what_is_expected() -> None:
    head, rows = rows_of_table(curve_of(falling(0.5, noise=0.01)))
    assert [row[0] for row in rows] == ["100", "300", "1,000", "3,000", "6,000", "12,000"]
    assert rows[0][1:3] == ("3", "0.8000") and rows[-1][1:4] == ("", "", "")
    assert {len(row) for row in rows} == {len(head)}


def test_the_drawing_marks_each_run_and_stays_within_its_frame() -> None:
    curve = curve_of({100: [0.70, 0.71], 300: [0.78], 1000: [0.79]})  # whose range is far wider than the values
    svg = ElementTree.fromstring(draw(curve))
    circles = [element for element in svg.iter() if element.tag.endswith("circle")]
    assert len(circles) == 4
    numbers = [float(part) for e in svg.iter() for pair in e.get("points", "").split() for part in pair.split(",")]
    assert numbers and all(math.isfinite(number) and 0 <= number <= 640 for number in numbers)
    (beyond,) = [e for e in svg.iter() if e.get("stroke-dasharray")]
    first_x = float(beyond.get("points", "").split(",")[0])
    assert first_x == pytest.approx(max(float(circle.get("cx", "")) for circle in circles), abs=0.1)
