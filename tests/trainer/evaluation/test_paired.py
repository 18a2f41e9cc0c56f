"""Differences of two models on the same rows, against scipy and closed forms."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from shardtune.trainer.evaluation.paired import Discordant, differences, discordant


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (3, 12), (10, 10), (480, 530), (900, 1200)])
def test_mcnemars_test_is_the_exact_binomial_test_of_the_discordant_rows(only_a: int, only_b: int) -> None:
    expected = 1.0 if only_a + only_b == 0 else binomtest(only_a, only_a + only_b).pvalue
    assert Discordant(only_a, only_b).p == pytest.approx(expected, rel=1e-9)


def test_rows_that_one_model_gets_right_are_counted_by_which() -> None:
    assert discordant([True, True, False, False], [True, False, True, True]) == Discordant(1, 2)


def mean_of(values: Any) -> Any:
    return lambda times: {"mean": float(times @ values / times.sum()), "rows": len(values)}


def test_a_small_difference_on_hard_and_easy_rows_is_found_because_the_rows_are_paired() -> None:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 10, 300)
    a, b = hard, hard + 0.2 + generator.normal(0, 0.5, 300)
    (found,) = differences(mean_of(a), mean_of(b), 300).values()
    expected = ttest_rel(b, a).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=0.01)
    assert found.p is not None and found.p < 0.01


def test_equal_models_do_not_differ() -> None:
    values = np.random.default_rng(0).normal(size=50)
    (found,) = differences(mean_of(values), mean_of(values), 50).values()
    assert (found.interval, found.p) == ((0.0, 0.0), 1.0)


def test_of_equally_good_models_about_one_in_twenty_is_called_better() -> None:
    generator, called = np.random.default_rng(1), 0
    for seed in range(100):
        a, b = generator.normal(size=(2, 40))
        (found,) = differences(mean_of(a), mean_of(b), 40, seed=seed).values()
        called += found.p is not None and found.p < 0.05
    assert 1 <= called <= 13
