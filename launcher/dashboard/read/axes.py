"""The x axes of curves: steps, tokens, time or epochs; and the part of one that is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.launcher.dashboard.read.downsample import Numbers, downsample

Axis = Literal["step", "tokens", "time", "epoch"]
NEEDED = ("step", "time", "epoch", "tokens_per_s", "step_time_s")
"""Columns of `step` events that the axes are made of."""


@dataclass(frozen=True)
class Window:
    """The part of the x axis that is shown, and by how many points."""

    axis: Axis
    begin: float | None = None
    end: float | None = None
    points: int = 1200


@dataclass(frozen=True)
class Series:
    """A curve of a run."""

    x: Numbers
    y: Numbers
    """nan where there is a gap."""
    count: int
    """The points in the window before some were left out."""


def curve_of_steps(steps: Mapping[str, Numbers], key: str, window: Window, began: float) -> Series | None:
    """The curve of a key of `step` events; None if they have no such number. `began` is when time begins."""
    if key not in steps or not np.isfinite(steps[key]).any():
        return None
    kept = _not_repeated(steps["step"])
    steps = {name: column[kept] for name, column in steps.items()}
    return _shown(_axis(steps, window.axis, began), steps[key], window)


def curve_of_evaluations(
    rows: Sequence[tuple[float, float, float]], steps: Mapping[str, Numbers], window: Window, began: float
) -> Series | None:
    """The curve of a metric of evaluations, from rows of step, time and value; None without any."""
    if not rows:
        return None
    at, times, values = np.array(rows, dtype=np.float64).T
    kept, known = _not_repeated(at), _not_repeated(steps["step"])
    steps = {name: column[known] for name, column in steps.items()}
    return _shown(_axis_at(at[kept], times[kept], steps, window.axis, began), values[kept], window)


def tokens_of_steps(steps: Mapping[str, Numbers], before: float = 0.0) -> Numbers:
    """The tokens of each line: of the steps since the line before it; `before` is the step before the first one."""
    num_steps = np.diff(steps["step"], prepend=before).clip(min=0.0)
    return np.nan_to_num(num_steps * steps["tokens_per_s"] * steps["step_time_s"], posinf=0.0, neginf=0.0)


def _not_repeated(steps: Numbers) -> NDArray[np.bool_]:
    """Whether each of these steps comes before all later lines; one that does not was done again."""
    later = np.minimum.accumulate(np.append(steps, np.inf)[::-1])[::-1][1:]
    return steps < later


def _axis(steps: Mapping[str, Numbers], axis: Axis, began: float) -> Numbers:
    """The x of each `step` event; it never falls."""
    if axis == "step":
        return steps["step"]
    if axis == "time":
        x = steps["time"] - began
    elif axis == "epoch":
        x = steps["epoch"]
    else:
        x = steps["tokens"] if "tokens" in steps else np.cumsum(tokens_of_steps(steps))
    x = np.where(np.isfinite(x), x, np.nan)
    if len(x) and np.isnan(x[0]):
        x = np.concatenate([[0.0], x[1:]])
    return _never_falling(x)


def _never_falling(x: Numbers) -> Numbers:
    """The numbers, each at least the highest before it: a clock may be set back, and an epoch be missing (nan)."""
    highest: Numbers = np.fmax.accumulate(x)
    return highest


def _axis_at(at: Numbers, times: Numbers, steps: Mapping[str, Numbers], axis: Axis, began: float) -> Numbers:
    """The x of evaluations at these steps and times."""
    if axis == "step":
        return at
    if axis == "time":
        return _never_falling(times - began)
    if not len(steps["step"]):
        return np.zeros_like(at)
    known = np.concatenate([[0.0], steps["step"]]), np.concatenate([[0.0], _axis(steps, axis, began)])
    x: Numbers = np.interp(at, *known)
    return x


def _shown(x: Numbers, y: Numbers, window: Window) -> Series:
    """The points in the window and one more on each side, so that the line goes on to its edges."""
    begin = 0 if window.begin is None else int(np.searchsorted(x, window.begin, side="left"))
    end = len(x) if window.end is None else int(np.searchsorted(x, window.end, side="right"))
    first, last = max(begin - 1, 0), min(end + 1, len(x))
    return Series(*downsample(x[first:last], y[first:last], window.points), count=max(end - begin, 0))
