"""Intervals hold the true value as often as they say, and are those of the literature."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, bootstrap

from shardtune.metrics.wilson import wilson
from shardtune.trainer.evaluation.intervals import draws, intervals, num_replicates, percentiles


@pytest.mark.parametrize(("hits", "rows"), [(0, 5), (1, 7), (50, 100), (99, 100), (100, 100), (123, 4567)])
def test_a_fraction_of_rows_has_wilsons_interval(hits: int, rows: int) -> None:
    expected = binomtest(hits, rows).proportion_ci(0.95, method="wilson")
    assert wilson(hits / rows, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_perfect_score_on_few_rows_is_not_certain() -> None:
    assert wilson(1.0, 10) == (pytest.approx(0.7225, abs=1e-4), 1.0)


def test_other_metrics_have_the_interval_of_the_bootstrap() -> None:
    values = np.random.default_rng(3).exponential(2.0, 200)
    found = intervals(lambda times: {"mean": float(times @ values / times.sum())}, 200, frozenset())
    expected = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found["mean"] == pytest.approx((expected.low, expected.high), abs=0.02)


def test_ninety_five_of_a_hundred_intervals_hold_the_true_value() -> None:
    generator, hits = np.random.default_rng(0), 0
    for seed in range(100):
        values = generator.normal(5.0, 1.0, 60)
        low, high = intervals(
            lambda times, v=values: {"m": float(times @ v / times.sum())}, 60, frozenset(), seed=seed
        )["m"]
        hits += low <= 5.0 <= high
    assert 88 <= hits <= 99


def test_a_metric_without_a_number_and_what_is_no_single_number_has_no_interval() -> None:
    def metrics(times: Any) -> dict[str, Any]:
        return {"accuracy": 0.5, "undefined": math.nan, "rows": 3, "table": [[1]], "text": "x"}

    assert set(intervals(metrics, 4, frozenset({"accuracy"}))) == {"accuracy"}
    assert intervals(metrics, 0, frozenset()) == {}


def test_every_draw_has_as_many_rows_and_the_same_seed_draws_the_same() -> None:
    drawn = [times.tolist() for times in draws(17, seed=4)]
    assert {sum(times) for times in drawn} == {17}
    assert drawn == [times.tolist() for times in draws(17, seed=4)]
    assert drawn != [times.tolist() for times in draws(17, seed=5)]


def test_large_test_sets_are_drawn_less_often() -> None:
    assert [num_replicates(rows) for rows in (10, 100_000, 300_000, 10_000_000)] == [1000, 1000, 333, 200]


def test_a_few_values_that_are_not_finite_are_left_out_and_many_are_no_interval() -> None:
    values = [float(value) for value in range(100)]
    assert percentiles([*values, math.nan]) == pytest.approx((2.475, 96.525))
    assert percentiles([*values, *[math.inf] * 10]) is None
