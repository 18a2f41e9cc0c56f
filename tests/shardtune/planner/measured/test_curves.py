"""Between the sizes that were measured logarithms are on straight lines; beyond them the rate stays."""

import pytest

from shardtune.planner.measured.curves import Curve, Products

CURVE = Curve(((100.0, 1e-3), (10_000.0, 1e-2)))


@pytest.mark.parametrize(
    ("size", "seconds"),
    [(100, 1e-3), (1000, 10**-2.5), (10_000, 1e-2), (20_000, 2e-2), (1, 1e-3), (0, 0.0)],
)
def test_a_curve_is_straight_between_logarithms(size: float, seconds: float) -> None:
    assert CURVE.at(size) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "points", [(), ((1.0, 0.0),), ((0.0, 1.0),), ((2.0, 1.0), (1.0, 1.0)), ((1.0, 1.0), (1.0, 2.0))]
)
def test_a_curve_of_other_points_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValueError):
        Curve(points)


# Each step of the inner dimension and of the columns doubles the rate, one of the rows makes it fourfold.
SIZES = (1.0, 4.0)
PRODUCTS = Products(
    SIZES,
    SIZES,
    SIZES,
    tuple((inner * columns) ** 0.5 for _ in SIZES for inner in SIZES for columns in SIZES),
)


def test_products_interpolate_rates_in_each_of_the_three_sizes() -> None:
    assert PRODUCTS.at(1, 1, 1) == 1.0
    assert PRODUCTS.at(4, 4, 4) == pytest.approx(64 / 16)
    assert PRODUCTS.at(2, 1, 1) == pytest.approx(2 / 2.0)
    assert PRODUCTS.at(1, 2, 1) == pytest.approx(2 / 2**0.5)
    assert PRODUCTS.at(2, 2, 2) == pytest.approx(8 / 4.0)
    assert PRODUCTS.best_rate == 2 * 16


def test_larger_products_keep_the_rate_and_smaller_ones_take_as_long_as_the_least() -> None:
    assert PRODUCTS.at(40, 4, 4) == pytest.approx(640 / 16)
    assert PRODUCTS.at(0.25, 1, 1) == PRODUCTS.at(1, 1, 1)


@pytest.mark.parametrize("seconds", [(1.0,), (1.0, 0.0), (1.0, 1.0, 1.0)])
def test_products_without_a_time_for_each_combination_are_refused(seconds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError):
        Products((1.0,), (1.0,), (1.0, 2.0), seconds)
