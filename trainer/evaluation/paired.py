"""Whether two models differ on the same rows, or only by the rows that happen to be in the test set.

The rows are paired: both models read the same ones, so a hard row is hard for both, and the difference of two metrics
is much more certain than each of them. For a fraction of rows, McNemar's exact test (McNemar, 1947) asks whether those
that only one model gets right are as often the one's as the other's. For every metric, the paired bootstrap (Koehn,
2004, "Statistical significance tests for machine translation evaluation") draws the same rows for both models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shardtune.trainer.evaluation.intervals import Interval, Metrics, draws, is_number, percentiles


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same rows."""

    a: float
    b: float
    interval: Interval | None
    """95 % interval of b - a; None if it is not finite too often."""
    p: float | None
    """How likely a difference as large as this, in either direction, is between equal models; None without interval."""


def differences(metrics_of_a: Metrics, metrics_of_b: Metrics, num_rows: int, *, seed: int = 0) -> dict[str, Difference]:
    """The difference of each metric that is a single number for both models, by the paired bootstrap."""
    every_row = np.ones(num_rows, dtype=np.int64)
    a, b = metrics_of_a(every_row), metrics_of_b(every_row)
    names = [name for name in a if is_number(a[name]) and is_number(b.get(name))]
    drawn: dict[str, list[float]] = {name: [] for name in names}
    for times in draws(num_rows, seed=seed):
        of_a, of_b = metrics_of_a(times), metrics_of_b(times)
        for name in names:
            drawn[name].append(float(of_b[name]) - float(of_a[name]))
    found = {}
    for name in names:
        interval = percentiles(drawn[name])
        found[name] = Difference(a[name], b[name], interval, None if interval is None else _p(drawn[name]))
    return found


def _p(drawn: list[float]) -> float:
    """Twice the fraction of the drawn differences beyond 0, which is one of them itself, so that it is never 0."""
    finite = [value for value in drawn if math.isfinite(value)]
    below, above = sum(value <= 0 for value in finite), sum(value >= 0 for value in finite)
    return min(1.0, 2 * (min(below, above) + 1) / (len(finite) + 1))


@dataclass(frozen=True)
class Discordant:
    """The rows that only one of two models gets right."""

    only_a: int
    only_b: int

    @property
    def p(self) -> float:
        """The exact two-sided p-value of McNemar's test: 1 if no row is discordant."""
        number = self.only_a + self.only_b
        tail = sum(math.comb(number, hits) for hits in range(min(self.only_a, self.only_b) + 1))
        return min(1.0, 2 * float(tail / 2**number)) if number < 1000 else self._p_of_many(number)

    def _p_of_many(self, number: int) -> float:
        """The same in logarithms, where the binomial coefficients are too large for a float."""
        logs = [
            math.lgamma(number + 1) - math.lgamma(hits + 1) - math.lgamma(number - hits + 1) - number * math.log(2)
            for hits in range(min(self.only_a, self.only_b) + 1)
        ]
        largest = max(logs)
        return min(1.0, 2 * math.exp(largest) * math.fsum(math.exp(log - largest) for log in logs))


def discordant(right_a: Sequence[bool], right_b: Sequence[bool]) -> Discordant:
    """The discordant ones of the same rows, from whether each model gets each row right."""
    pairs = list(zip(right_a, right_b, strict=True))
    return Discordant(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs))
