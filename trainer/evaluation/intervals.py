"""How certain a metric is: an interval that holds the value of all rows of this kind in 95 of 100 test sets.

A fraction of rows has Wilson's interval (Wilson, 1927, "Probable inference, the law of succession, and statistical
inference"), which is right near 0 and 1 too. All others are estimated by the bootstrap (Efron, 1979): a thousand test
sets are drawn from the rows, with replacement, and the metric of each is computed; the interval is what is left of
these values without the lowest and the highest 2.5 %. The rows are what is drawn, not the windows or the targets of
a row, which depend on each other.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.metrics.wilson import wilson

CONFIDENCE = 0.95
REPLICATES = 1000
MOST_DRAWS = 100_000_000
"""Rows that are drawn for all test sets together; a large test set is drawn less often, but at least..."""
FEWEST_REPLICATES = 200

Interval = tuple[float, float]
Counts = NDArray[np.int64]
Metrics = Callable[[Counts], Mapping[str, Any]]
"""How often each row was drawn, of shape (rows,) -> the metrics of these rows."""


def intervals(metrics_of: Metrics, num_rows: int, proportions: frozenset[str], *, seed: int = 0) -> dict[str, Interval]:
    """The 95 % interval of each metric that is a single number, from `num_rows` rows; those of `proportions` are
    fractions of them.

    A metric that is not finite in more than a twentieth of the test sets drawn has no interval.
    """
    if num_rows == 0:
        return {}
    values = {name: value for name, value in metrics_of(np.ones(num_rows, dtype=np.int64)).items() if is_number(value)}
    found = {name: wilson(values[name], num_rows) for name in values if name in proportions}
    drawn: dict[str, list[float]] = {name: [] for name in values if name not in found}
    if drawn:
        for times in draws(num_rows, seed=seed):
            metrics = metrics_of(times)
            for name, of_draws in drawn.items():
                of_draws.append(float(metrics[name]))
    for name, of_draws in drawn.items():
        if (interval := percentiles(of_draws)) is not None:
            found[name] = interval
    return {name: found[name] for name in values if name in found}


def is_number(value: object) -> bool:
    """Whether a metric is a single real number, not a count, a table or a text."""
    return isinstance(value, float)


def draws(num_rows: int, *, seed: int) -> Iterator[Counts]:
    """How often each row is in a test set of as many rows drawn with replacement, for one such set after another."""
    generator = np.random.Generator(np.random.PCG64(seed))
    for _ in range(num_replicates(num_rows)):
        yield np.bincount(generator.integers(0, num_rows, num_rows), minlength=num_rows)


def num_replicates(num_rows: int) -> int:
    """How many test sets are drawn from this many rows."""
    return max(FEWEST_REPLICATES, min(REPLICATES, MOST_DRAWS // max(1, num_rows)))


def percentiles(values: list[float], *, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval without the lowest and highest values; None if more than a twentieth are not finite."""
    finite = np.array([value for value in values if math.isfinite(value)])
    if len(finite) < 0.95 * len(values) or len(finite) == 0:
        return None
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
