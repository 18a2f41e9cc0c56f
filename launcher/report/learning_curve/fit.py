"""Numbers of training rows and the errors that were reached with them -> a power law, and how far it can be trusted.

error = a n^-b + c (Hestness et al., 2017, "Deep learning scaling is predictable, empirically"; Rosenfeld et al., 2020,
"A constructive prediction of the generalization error across scales"): c is what no number of rows takes away. It is
fitted to the logarithms of the errors, so that each counts by its relative distance. Its intervals are those of least
squares (Student's t, the first order of the uncertainty of a, b and c). Three numbers of rows cannot tell a floor from
a slow fall: they get a and b alone, with c = 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shardtune.launcher.report.intervals import t_quantile

FEWEST = 3
"""Numbers of rows that a power law is fitted to: any two lie on one."""
FEWEST_WITH_FLOOR = 4
STARTS = (0.1, 0.5, 0.9)
"""Where the search for the floor begins, as parts of the lowest error."""
MOST_ROUNDS = 200
STEEPEST = 10.0
"""A larger exponent is a jump between two points, not a law."""
Numbers = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PowerLaw:
    """error = scale * (rows / largest)^-exponent + floor."""

    scale: float
    exponent: float
    floor: float
    largest: float
    """The most rows that a run was trained on."""
    num_parameters: int
    """3, or 2 if the floor was not fitted."""
    freedom: int
    """Runs beyond the parameters, at least 1."""
    variance: float
    """Of the logarithms of the errors about the curve."""
    covariance: Numbers
    """That of (log scale, exponent, floor) as parts of the variance; shape (parameters, parameters)."""

    def error(self, rows: float) -> Estimate:
        """The mean error of runs on so many rows."""
        return self._estimate(math.log(self._at(rows)), self._gradient(rows))

    def ratio(self, rows: float) -> Estimate:
        """The error on so many rows, as a part of that on the most rows that were trained on."""
        logarithm = math.log(self._at(rows)) - math.log(self._at(self.largest))
        return self._estimate(logarithm, self._gradient(rows) - self._gradient(self.largest))

    def _at(self, rows: float) -> float:
        return self.scale * math.exp(-self.exponent * math.log(rows / self.largest)) + self.floor

    def _gradient(self, rows: float) -> Numbers:
        """Of the logarithm of the error, by the parameters."""
        x = np.array([math.log(rows / self.largest)])
        parameters = np.array([math.log(self.scale), self.exponent, self.floor])
        gradient: Numbers = _gradients(x, parameters)[0, : self.num_parameters]
        return gradient

    def _estimate(self, logarithm: float, gradient: Numbers) -> Estimate:
        deviation = math.sqrt(max(0.0, self.variance * float(gradient @ self.covariance @ gradient)))
        half_width = t_quantile(self.freedom) * deviation
        return Estimate(*(_exp(logarithm + shift) for shift in (0.0, -half_width, half_width)))


def fit_power_law(rows: Sequence[float], errors: Sequence[float]) -> PowerLaw | None:
    """The power law of these runs; None if they have fewer than three numbers of rows.

    Rows and errors must be above 0. Several runs may have the same number of rows, such as those of several seeds.
    """
    num_different = len(set(rows))
    if num_different < FEWEST:
        return None
    largest = max(rows)
    x, y = np.log(np.array(rows, dtype=np.float64) / largest), np.log(np.array(errors, dtype=np.float64))
    parameters = _straight(x, y)
    with_floor = _with_floor(x, y) if num_different >= FEWEST_WITH_FLOOR else None
    if with_floor is not None and _squares(x, y, with_floor) < _squares(x, y, parameters):
        fitted = _law(x, y, with_floor, 3, largest)
        if fitted is not None:
            return fitted
    return _law(x, y, parameters, 2, largest)


def _law(x: Numbers, y: Numbers, parameters: Numbers, number: int, largest: float) -> PowerLaw | None:
    """The law with these parameters; None if the runs do not tell them apart."""
    gradients = _gradients(x, parameters)[:, :number]
    information = gradients.T @ gradients
    scaled = information / np.sqrt(np.outer(np.diag(information), np.diag(information)))
    if not np.isfinite(scaled).all() or np.linalg.cond(scaled) > 1e12:
        return None
    freedom = len(x) - number
    return PowerLaw(
        math.exp(parameters[0]),
        float(parameters[1]),
        float(parameters[2]),
        largest,
        number,
        freedom,
        _squares(x, y, parameters) / freedom,
        np.linalg.inv(information).astype(np.float64),
    )


def _straight(x: Numbers, y: Numbers) -> Numbers:
    """(log scale, exponent, 0) of the line through the logarithms."""
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
    return np.array([y.mean() - slope * x.mean(), -slope, 0.0])


def _with_floor(x: Numbers, y: Numbers) -> Numbers | None:
    """(log scale, exponent, floor) with the least squares; None if no floor above 0 is better than none."""
    lowest = float(np.exp(y).min())
    found = []
    for share in STARTS:
        start = _straight(x, np.log(np.exp(y) - share * lowest))
        start[2] = share * lowest
        found.append(_searched(x, y, start))
    best = min(found, key=lambda parameters: _squares(x, y, parameters))
    return best if best[2] > 1e-6 * lowest and 0 < best[1] < STEEPEST else None


def _searched(x: Numbers, y: Numbers, parameters: Numbers) -> Numbers:
    """The parameters with the least squares, by Levenberg and Marquardt's method; the floor stays above 0."""
    damping, squares = 1e-3, _squares(x, y, parameters)
    for _ in range(MOST_ROUNDS):
        gradients = _gradients(x, parameters)
        information = gradients.T @ gradients
        slope = gradients.T @ (y - _logarithms(x, parameters))
        step = np.linalg.lstsq(information + damping * np.diag(np.diag(information)), slope, rcond=None)[0]
        tried = parameters + step
        is_legal = tried[2] > 0 and abs(tried[0]) < 100 and abs(tried[1]) < 2 * STEEPEST
        if is_legal and (fewer := _squares(x, y, tried)) < squares:
            is_done = squares - fewer < 1e-14 * squares
            parameters, squares, damping = tried, fewer, damping / 3
            if is_done:
                break
        else:
            damping *= 4
            if damping > 1e12:
                break
    return parameters


def _logarithms(x: Numbers, parameters: Numbers) -> Numbers:
    """The logarithms of the errors by the law; shape (runs,)."""
    log_scale, exponent, floor = parameters
    logarithms: Numbers = np.log(np.exp(log_scale - exponent * x) + floor)
    return logarithms


def _gradients(x: Numbers, parameters: Numbers) -> Numbers:
    """The gradients of _logarithms; shape (runs, 3)."""
    log_scale, exponent, floor = parameters
    falling = np.exp(log_scale - exponent * x)
    errors = falling + floor
    return np.stack([falling / errors, -x * falling / errors, 1 / errors], axis=1)


def _squares(x: Numbers, y: Numbers, parameters: Numbers) -> float:
    return float(((y - _logarithms(x, parameters)) ** 2).sum())


def _exp(logarithm: float) -> float:
    return math.exp(min(logarithm, 700.0))
