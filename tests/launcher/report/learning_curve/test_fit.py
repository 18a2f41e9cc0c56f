"""A power law is fitted as scipy fits it, with the intervals that its closed forms give."""

import math

import numpy as np
import pytest
from scipy.optimize import curve_fit
from scipy.stats import linregress, t

from shardtune.launcher.report.learning_curve.fit import fit_power_law

ROWS = [100, 300, 1000, 3000, 10_000]


def test_three_numbers_of_rows_are_fitted_as_a_line_through_the_logarithms() -> None:
    rows, errors = [100, 300, 1000], [0.31, 0.22, 0.17]
    law = fit_power_law(rows, errors)
    assert law is not None and law.num_parameters == 2 and law.floor == 0 and law.freedom == 1
    line = linregress(np.log(rows), np.log(errors))
    assert law.exponent == pytest.approx(-line.slope)
    assert law.error(2000).value == pytest.approx(math.exp(line.intercept + line.slope * math.log(2000)))


def test_the_interval_of_a_line_is_that_of_its_mean_by_students_t() -> None:
    rows = [100, 100, 300, 300, 1000, 1000]
    errors = [0.30, 0.33, 0.22, 0.215, 0.17, 0.16]
    law = fit_power_law(rows, errors)
    assert law is not None
    x, y = np.log(rows), np.log(errors)
    line = linregress(x, y)
    residual = y - line.intercept - line.slope * x
    s = math.sqrt((residual**2).sum() / 4)
    at = math.log(4000)
    spread = ((x - x.mean()) ** 2).sum()
    half = t.ppf(0.975, 4) * s * math.sqrt(1 / 6 + (at - x.mean()) ** 2 / spread)
    middle = line.intercept + line.slope * at
    assert law.error(4000) == pytest.approx(
        (math.exp(middle), math.exp(middle - half), math.exp(middle + half)), rel=1e-3
    )
    of_slope = t.ppf(0.975, 4) * line.stderr * math.log(2)
    ratio = line.slope * math.log(2)
    expected = (math.exp(ratio), math.exp(ratio - of_slope), math.exp(ratio + of_slope))
    assert law.ratio(2000) == pytest.approx(expected, rel=1e-3)


def test_a_floor_is_found_where_there_is_one() -> None:
    law = fit_power_law(ROWS, [3.0 * n**-0.5 + 0.08 for n in ROWS])
    assert law is not None and law.num_parameters == 3
    assert (law.exponent, law.floor) == pytest.approx((0.5, 0.08), rel=1e-4)
    assert law.scale == pytest.approx(3.0 * 10_000**-0.5, rel=1e-4)
    assert law.error(40_000).value == pytest.approx(3.0 * 40_000**-0.5 + 0.08, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_a_law_with_a_floor_and_its_uncertainty_are_those_of_scipy(seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.01, 2 * len(ROWS))
    rows = np.array(ROWS * 2, dtype=float)
    errors = (3.0 * rows**-0.5 + 0.08) * np.exp(noise)
    law = fit_power_law(rows.tolist(), errors.tolist())
    assert law is not None and law.num_parameters == 3

    def logarithm(x: np.ndarray, log_scale: float, exponent: float, floor: float) -> np.ndarray:
        return np.log(np.exp(log_scale) * (x / 10_000) ** -exponent + floor)

    found, covariance = curve_fit(logarithm, rows, np.log(errors), p0=[math.log(0.03), 0.5, 0.08], xtol=1e-12)
    assert (math.log(law.scale), law.exponent, law.floor) == pytest.approx(found, rel=1e-4)
    assert law.variance * law.covariance == pytest.approx(covariance, rel=1e-3)


def test_the_range_holds_the_truth_in_about_19_of_20_curves() -> None:
    random, hits = np.random.default_rng(0), 0
    for _ in range(200):
        errors = [(3.0 * n**-0.5 + 0.08) * math.exp(random.normal(0, 0.01)) for n in ROWS * 2]
        law = fit_power_law(ROWS * 2, errors)
        assert law is not None
        hits += law.error(20_000).low < 3.0 * 20_000**-0.5 + 0.08 < law.error(20_000).high
    assert 180 <= hits <= 198


def test_without_a_floor_in_the_errors_none_is_claimed() -> None:
    law = fit_power_law(ROWS, [2.0 * n**-0.3 * (1.02 if n == 1000 else 0.99) for n in ROWS])
    assert law is not None
    assert law.floor < 0.05 * 2.0 * 10_000**-0.3


def test_two_numbers_of_rows_give_no_law() -> None:
    assert fit_power_law([100, 100, 200], [0.3, 0.31, 0.2]) is None


def test_equal_errors_give_a_flat_law() -> None:
    law = fit_power_law(ROWS, [0.2] * len(ROWS))
    assert law is not None
    assert law.ratio(20_000).value == pytest.approx(1.0)
    assert law.error(40_000).value == pytest.approx(0.2)
