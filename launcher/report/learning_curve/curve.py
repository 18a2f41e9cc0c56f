"""The runs on fractions of the training rows -> a table, the curve through them, and whether more rows would help."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shardtune.counted import counted
from shardtune.launcher.report.intervals import Spread, spread_of
from shardtune.launcher.report.learning_curve.fit import Estimate, PowerLaw, fit_power_law
from shardtune.launcher.report.sections.numbers import shown
from shardtune.run_dir.view.curves import bounds_of

TIMES = (2, 4)
"""How many times the most rows the curve is continued to."""
LITTLE = 0.02
"""A part of the error that is not worth twice the rows."""


@dataclass(frozen=True)
class CurvePoint:
    """A run on a fraction of the training rows."""

    fraction: float
    rows: int
    """That it was trained on."""
    value: float
    """Of the metric."""


@dataclass(frozen=True)
class LearningCurve:
    """A metric by the number of training rows."""

    metric: str
    """Its split and name, such as test/accuracy."""
    lower_is_better: bool
    points: Sequence[CurvePoint]
    """With few rows first."""

    @cached_property
    def by_rows(self) -> dict[int, Spread]:
        """Training rows -> the values of the runs on so many."""
        rows = sorted({point.rows for point in self.points})
        return {number: spread_of([point.value for point in self.points if point.rows == number]) for number in rows}

    @cached_property
    def best(self) -> float:
        """The value of a model without error: 0 where lower is better, else the most that the metric can be."""
        if self.lower_is_better:
            return 0.0
        highest = bounds_of(self.metric.partition("/")[2])[1]
        return highest if math.isfinite(highest) else 1.0

    @cached_property
    def law(self) -> PowerLaw | None:
        """The power law of the error; None with fewer than three numbers of rows, or where a run has no error."""
        errors = [abs(self.best - point.value) for point in self.points]
        if not errors or min(errors) <= 0:
            return None
        return fit_power_law([point.rows for point in self.points], errors)

    def expected(self, rows: float) -> Estimate:
        """The mean value of runs on so many rows, by the law."""
        assert self.law is not None, "only a curve with a law can be continued"
        error = self.law.error(rows)
        if self.lower_is_better:
            return error
        return Estimate(self.best - error.value, self.best - error.high, self.best - error.low)

    @property
    def most(self) -> int:
        """The most rows that a run was trained on."""
        return max(point.rows for point in self.points)

    def as_json(self) -> dict[str, Any]:
        """The curve for results.json."""
        found: dict[str, Any] = {
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
            "runs": [{"fraction": at.fraction, "rows": at.rows, "value": at.value} for at in self.points],
            "verdict": sentence(self),
        }
        if (law := self.law) is not None:
            found["law"] = {"error": "scale * (rows / most_rows) ** -exponent + floor", "best": self.best}
            found["law"] |= {"scale": law.scale, "exponent": law.exponent, "floor": law.floor, "most_rows": law.largest}
            found["law"] |= {"num_parameters": law.num_parameters, "freedom": law.freedom}
            found["expected"] = [
                {"rows": times * self.most, "value": at.value, "interval": [at.low, at.high]}
                for times in TIMES
                for at in [self.expected(times * self.most)]
            ]
        return found


def sentence(curve: LearningCurve) -> str:
    """Whether more rows would help, in words."""
    law = curve.law
    if law is None:
        if curve.points and min(abs(curve.best - point.value) for point in curve.points) <= 0:
            return f"More rows cannot help: {curve.metric} is at its best already."
        return "Whether more rows would help needs runs on at least three fractions that are finished."
    if len({point.value for point in curve.points}) == 1:
        return f"The rows make no difference: {curve.metric} is the same in all runs."
    twice = law.ratio(2 * curve.most)
    return f"{_verdict(twice)} {_outlook(curve)} {_caution(curve)}"


def _verdict(twice: Estimate) -> str:
    """By the error with twice the rows, as a part of what it is."""
    if twice.high < 1:
        if twice.value > 1 - LITTLE:
            return f"More rows would help little: twice as many would take {1 - twice.value:.1%} off the error."
        return (
            f"More rows would help: twice as many would take about {1 - twice.value:.0%} off the error "
            f"({1 - twice.high:.0%} to {1 - twice.low:.0%})."
        )
    if twice.low > 1:
        return "More rows would not help: the error does not fall with the rows."
    return (
        "These runs do not tell whether more rows would help; more fractions or seeds would "
        f"(error with twice the rows: {twice.value:.0%} of the present one, 95 % range {twice.low:.0%} to "
        f"{_percent(twice.high)})."
    )


def _outlook(curve: LearningCurve) -> str:
    """What is expected of more rows."""
    now = curve.expected(curve.most).value
    parts = []
    for times in TIMES:
        at = curve.expected(times * curve.most)
        parts.append(f"{shown(at.value)} (95 % range {shown(at.low)} to {shown(at.high)}) with {times * curve.most:,}")
    return f"Expected {curve.metric}: {shown(now)} with {counted(curve.most, 'row')}, {', '.join(parts)}."


def _caution(curve: LearningCurve) -> str:
    """How far the law can be trusted."""
    law = curve.law
    assert law is not None, "asked only where there is one"
    if law.num_parameters == 2:
        why = "three fractions cannot show" if len(curve.by_rows) < 4 else "the runs do not show"
        return f"The law has no floor, which {why}: where there is one, more rows help less than this says."
    return f"By the law, an error of {shown(law.floor)} remains with any number of rows."


def rows_of_table(curve: LearningCurve) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The head and the rows of a table: what was measured, then what is expected of more."""
    head = ("training rows", "runs", curve.metric, "standard deviation", "by the law", "95% range")
    rows: list[tuple[str, ...]] = []
    for number, spread in curve.by_rows.items():
        deviation = f"± {shown(spread.deviation)}" if spread.number > 1 else ""
        rows.append((f"{number:,}", str(spread.number), shown(spread.mean), deviation, *_by_law(curve, number)))
    if curve.law is not None:
        rows += [(f"{times * curve.most:,}", "", "", "", *_by_law(curve, times * curve.most)) for times in TIMES]
    return head, rows


def _by_law(curve: LearningCurve, rows: int) -> tuple[str, str]:
    if curve.law is None:
        return "", ""
    at = curve.expected(rows)
    return shown(at.value), f"{shown(at.low)} to {shown(at.high)}"


def _percent(ratio: float) -> str:
    return f"{ratio:.0%}" if ratio < 10 else "over 1000%"
