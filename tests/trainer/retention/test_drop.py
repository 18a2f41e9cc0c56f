"""How much worse is too much: fractions by their difference, everything else relative to what it was."""

import math

import pytest

from shardtune.trainer.retention.drop import Judge


def excess(metric: str, before: float, now: float, limit: float | None = 0.02) -> float:
    lower_is_better = metric in ("loss", "perplexity", "mse")
    return Judge(metric, lower_is_better, limit).excess({metric: before}, {metric: now})


def test_a_fraction_may_fall_by_the_limit() -> None:
    assert excess("accuracy", 0.90, 0.881) == 0.0
    assert excess("accuracy", 0.90, 0.85) == pytest.approx(0.03)
    assert excess("f1", 0.5, 0.9) == 0.0


@pytest.mark.parametrize(("metric", "worse"), [("perplexity", 11.0), ("loss", 11.0), ("mse", 11.0), ("bleu", 9.0)])
def test_a_metric_without_a_scale_may_become_worse_in_relation_to_what_it_was(metric: str, worse: float) -> None:
    assert excess(metric, 10.0, worse) == pytest.approx(0.08)
    assert excess(metric, 10.0, 10.0 + (worse - 10.0) / 10) == 0.0
    assert excess(metric, 10.0, 20.0 - worse) == 0.0


def test_no_number_is_beyond_any_limit_and_without_a_limit_or_a_past_nothing_is() -> None:
    assert excess("accuracy", 0.9, math.nan) == math.inf
    assert excess("loss", 1.0, math.inf) == math.inf
    assert excess("loss", 0.0, 0.1) == math.inf
    assert excess("loss", 1.0, math.inf, limit=None) == 0.0
    assert Judge("loss", True, 0.0).excess(None, {"loss": 9.0}) == 0.0
