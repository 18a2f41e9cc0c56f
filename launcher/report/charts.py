"""Curves -> what a page draws them from: an <svg> each, and the numbers for the script that zooms (charts.js)."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from shardtune.run_dir.view.chart import means, thinned_columns
from shardtune.run_dir.view.curves import MAX_MEANS, Curve, Line
from shardtune.run_dir.view.history import Column, History

MAX_NUMBERS = 2000
"""Points of a line in the page: more than its width has, so that zooming shows more."""
MAX_AXIS = 400
"""Points of the table from steps to tokens, time and epochs, between which the script interpolates."""
_SAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Charts:
    """The charts of a page."""

    drawings: Sequence[str]
    """Their <svg> elements, which stand for them without JavaScript."""
    numbers: str
    """Their numbers, as JSON that may stand in a <script> element."""
    kind: str = "charts"

    def __bool__(self) -> bool:
        return bool(self.drawings)


def charts_of(curves: Sequence[Curve], axes: Sequence[Mapping[str, Sequence[Column]]], runs: Sequence[int]) -> Charts:
    """The charts of these curves of one or several runs.

    `axes` has axes_of of each run, `runs` the number of the run of each line, all curves' lines in a row.
    """
    of_run = iter(runs)
    charts = [
        {
            "title": curve.title,
            "bounds": [bound if math.isfinite(bound) else None for bound in curve.bounds],
            "lines": [_line(line, next(of_run)) for line in curve.lines],
        }
        for curve in curves
    ]
    tables = [{name: [_rounded(column) for column in table] for name, table in by_name.items()} for by_name in axes]
    text = json.dumps({"axes": tables, "charts": charts}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _SAFE.items():
        text = text.replace(character, escape)
    return Charts([Markup(curve.render()) for curve in curves], Markup(text))


def axes_of(history: History) -> dict[str, tuple[Column, Column]]:
    """(steps, values) of the axes besides steps: tokens, hours of training, epochs; those that are known.

    The hours are those of the steps alone. So neither a restart nor a clock that was set leaves a gap.
    """
    steps = history.steps
    if "step" not in steps or not len(steps["step"]):
        return {}
    numbers = np.diff(steps["step"], prepend=0.0)
    found: dict[str, Column] = {}
    if "step_time_s" in steps:
        seconds = numbers * np.nan_to_num(steps["step_time_s"])
        if "tokens_per_s" in steps:
            found["tokens"] = np.cumsum(seconds * np.nan_to_num(steps["tokens_per_s"]))
        found["hours"] = np.cumsum(seconds) / 3600
    if "epoch" in steps and np.isfinite(steps["epoch"]).all():
        found["epoch"] = np.maximum.accumulate(steps["epoch"])
    kept = np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), MAX_AXIS)).astype(np.int64))
    return {name: (np.append(0.0, steps["step"][kept]), np.append(0.0, values[kept])) for name, values in found.items()}


def _line(line: Line, run: int) -> dict[str, Any]:
    """A line in JSON's types; what is smoothed of a long one are means of its parts."""
    x, y = thinned_columns(line.x, line.y, MAX_NUMBERS)
    found = {"name": line.name, "run": run, "colour": line.colour, "x": _rounded(x), "y": _rounded(y)}
    if line.dots:
        found["dots"] = True
    if line.is_noisy:
        found["noisy"] = True
        if len(line.x) > MAX_MEANS:
            found["mx"], found["my"] = (_rounded(column) for column in means(line.x, line.y, MAX_MEANS))
    return found


def _rounded(column: Iterable[float]) -> list[float]:
    """The numbers to six digits, whole ones in full."""
    return [int(value) if value == int(value) else float(f"{value:.6g}") for value in map(float, column)]
