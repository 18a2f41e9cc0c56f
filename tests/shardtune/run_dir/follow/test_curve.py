"""A curve of any length keeps its spikes and its mean in bounded memory."""

import math
import random

import pytest

from shardtune.run_dir.follow.curve import MAX_BUCKETS, Curve
from shardtune.run_dir.view.chart import smoothed


def curve_of(values: list[float]) -> Curve:
    curve = Curve()
    for number, value in enumerate(values):
        curve.add(number, 2.0 * number, value)
    return curve


def test_a_short_curve_is_kept_as_it_is() -> None:
    values = [random.Random(number).random() for number in range(MAX_BUCKETS - 1)]
    curve = curve_of(values)
    assert curve.points() == list(enumerate(values))
    assert curve.points("time") == [(2.0 * number, value) for number, value in enumerate(values)]
    assert [y for _, y in curve.smoothed(0.9)] == pytest.approx([y for _, y in smoothed(list(enumerate(values)), 0.9)])


@pytest.mark.parametrize("length", [MAX_BUCKETS, 10_001, 100_000])
def test_a_long_curve_is_bounded_and_keeps_every_spike(length: int) -> None:
    values = [1.0] * length
    values[length // 3], values[-2] = 9.0, -9.0
    curve = curve_of(values)
    points = curve.points()
    assert len(curve) == length and len(points) <= MAX_BUCKETS + 2
    assert (min(y for _, y in points), max(y for _, y in points)) == (-9.0, 9.0)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert curve.newest == 1.0


def test_the_smoothed_value_of_a_long_curve_is_that_of_all_its_points() -> None:
    generator = random.Random(0)
    values = [math.exp(-number / 20_000) + generator.gauss(0, 0.01) for number in range(50_000)]
    expected = smoothed(list(enumerate(values)), 0.999)[-1][1]
    assert curve_of(values).smoothed(0.999)[-1][1] == pytest.approx(expected, abs=0.002)


def test_what_is_not_finite_is_no_point() -> None:
    curve = Curve()
    for value in (1.0, None, math.nan, math.inf):
        curve.add(1, 1.0, value)
    assert (curve.points(), curve.newest) == ([(1, 1.0)], None)
