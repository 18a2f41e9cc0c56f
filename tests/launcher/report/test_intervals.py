"""Intervals against published numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.launcher.report.intervals import counted_interval, interval_of, spread_of, t_quantile


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    # Newcombe 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_that_of_the_literature(hits: int, trials: int, low: float, high: float) -> None:
    interval = counted_interval(hits, trials)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_the_share_and_stays_between_0_and_1(hits: int, misses: int) -> None:
    if hits + misses:
        interval = counted_interval(hits, hits + misses)
        assert 0 <= interval.low <= hits / (hits + misses) + 1e-12 and interval.high <= 1
        assert interval.high >= hits / (hits + misses) - 1e-12


def test_an_accuracy_has_the_interval_of_its_confusion_matrix_and_a_stored_one_goes_first() -> None:
    scores = {"accuracy": 0.875, "f1_macro": 0.87, "confusion": [[3, 1], [0, 4]]}
    interval = interval_of("accuracy", scores)
    assert interval is not None and interval[:2] == counted_interval(7, 8)[:2] and interval.how == "Wilson, 7 of 8"
    assert interval_of("f1_macro", scores) is None
    stored = interval_of("accuracy", {**scores, "intervals": {"accuracy": [0.5, 0.9]}})
    assert stored == (0.5, 0.9, "")
    same = interval_of("accuracy", {**scores, "intervals": {"accuracy": list(interval[:2])}})
    assert same == interval


def test_an_exact_match_has_the_interval_of_its_answers() -> None:
    interval = interval_of("exact_match", {"exact_match": 0.25, "num_answers": 40})
    assert interval is not None and interval[:2] == counted_interval(10, 40)[:2]


@pytest.mark.parametrize(
    "scores",
    [
        {"accuracy": 0.5},
        {"accuracy": 0.5, "confusion": []},
        {"accuracy": 0.5, "confusion": [[1, 2]]},
        {"accuracy": 0.5, "confusion": [[0]]},
        {"accuracy": 0.9, "confusion": [[1, 1], [1, 1]]},
        {"accuracy": None, "confusion": [[1]]},
        {"accuracy": 0.5, "intervals": {"accuracy": [None, 1.0]}},
        {"accuracy": 0.5, "intervals": []},
    ],
)
def test_without_counts_that_fit_there_is_no_interval(scores: dict[str, object]) -> None:
    assert interval_of("accuracy", scores) is None


def test_the_mean_of_seeds_has_students_interval() -> None:
    spread = spread_of([0.80, 0.82, 0.84])
    assert (spread.mean, spread.deviation, spread.number) == (pytest.approx(0.82), pytest.approx(0.02), 3)
    assert spread.half_width == pytest.approx(4.303 * 0.02 / math.sqrt(3), rel=1e-3)
    assert math.isnan(spread_of([0.5]).half_width)


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (20, 2.086), (21, 2.080), (30, 2.042), (120, 1.980)])
def test_quantiles_of_t_are_those_of_the_table(freedom: int, value: float) -> None:
    assert t_quantile(freedom) == pytest.approx(value, abs=1e-3)
