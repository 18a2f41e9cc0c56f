"""Intervals of a metric: of one run from its counts, of several runs from their values."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Any, NamedTuple, TypeGuard

from shardtune.metrics.wilson import wilson

LEVEL = 0.95
_Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)


class Interval(NamedTuple):
    """Where the value of a metric lies, with 95% confidence."""

    low: float
    high: float
    how: str
    """How it was found, in words; empty if that is not known."""


class Spread(NamedTuple):
    """The values of a metric in several runs."""

    mean: float
    deviation: float
    """The sample's standard deviation (n - 1); 0 for a single run."""
    number: int
    half_width: float
    """The 95% interval of the mean (Student's t) is mean ± this; nan for a single run."""


def interval_of(metric: str, scores: Mapping[str, Any]) -> Interval | None:
    """The interval of a metric of one evaluation: the one that is stored with it, or Wilson's where the counts are
    known; None otherwise."""
    counts = _counts(metric, scores)
    counted = counted_interval(*counts) if counts is not None and counts[1] else None
    stored = scores.get("intervals")
    if isinstance(stored, Mapping) and isinstance(pair := stored.get(metric), list) and len(pair) == 2:
        low, high = pair
        if _is_finite(low) and _is_finite(high):
            is_wilson = counted is not None and math.isclose(low, counted.low, abs_tol=1e-4)
            return Interval(float(low), float(high), counted.how if counted is not None and is_wilson else "")
    return counted


def counted_interval(hits: int, trials: int) -> Interval:
    """Wilson's interval of a share, from its counts."""
    return Interval(*wilson(hits / trials, trials), f"Wilson, {hits:,} of {trials:,}")


def _counts(metric: str, scores: Mapping[str, Any]) -> tuple[int, int] | None:
    """(hits, trials) of a metric that is a share of rows."""
    if metric in ("accuracy", "f1_micro") and is_confusion(matrix := scores.get("confusion")):
        hits, trials = sum(row[at] for at, row in enumerate(matrix)), sum(map(sum, matrix))
        # f1_micro over all labels of single-label rows is the accuracy.
        return (hits, trials) if trials and math.isclose(hits / trials, scores.get(metric) or -1.0) else None
    if metric == "exact_match" and _is_finite(scores.get(metric)) and isinstance(scores.get("num_answers"), int):
        trials = scores["num_answers"]
        return round(scores[metric] * trials), trials
    return None


def is_confusion(matrix: Any) -> TypeGuard[list[list[int]]]:
    """Whether a value is a square of counts."""
    return (
        isinstance(matrix, list)
        and bool(matrix)
        and all(isinstance(row, list) and len(row) == len(matrix) for row in matrix)
        and all(isinstance(cell, int) for row in matrix for cell in row)
    )


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, standard deviation, number and interval of at least one finite value."""
    number = len(values)
    deviation = stdev(values) if number > 1 else 0.0
    half_width = t_quantile(number - 1) * deviation / math.sqrt(number) if number > 1 else math.nan
    return Spread(fmean(values), deviation, number, half_width)


_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""The 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom."""


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t; from 21 degrees of freedom on by its expansion, to three digits."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    # Abramowitz and Stegun, 26.7.5
    return _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
