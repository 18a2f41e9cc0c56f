"""Few points of every curve of a run, made while its file is read, so that hundreds of runs can be drawn over each
other without reading them again.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from shardtune.launcher.dashboard.read.axes import (
    NEEDED,
    Series,
    Window,
    curve_of_evaluations,
    curve_of_steps,
    tokens_of_steps,
)
from shardtune.launcher.dashboard.read.downsample import Numbers, downsample
from shardtune.launcher.dashboard.read.lines import Event, Lines, as_number
from shardtune.launcher.dashboard.read.metric_names import EVALUATIONS, NOT_METRICS, key_of, of_evaluation

POINTS = 256
"""Points of a curve that are kept."""
AT_ONCE = 20_000
"""Lines that are kept as they are while more are read."""
MOST_ROWS = 5000
"""Evaluations that are kept."""
AXES = ("step", "time", "epoch", "tokens")
Evaluations = dict[str, list[tuple[float, float, float]]]
"""Metric -> step, time and value of each evaluation."""


class Overview:
    """The curves of one run, each by its lowest and highest points."""

    def __init__(self) -> None:
        self.keys: tuple[str, ...] = ()
        """Keys of `step` events that have a curve."""
        self.num_steps = 0
        """The `step` events that were taken."""
        self._kept: dict[str, dict[str, Numbers]] = {}
        """Key -> the axes and values of its points."""
        self._new: list[Mapping[str, Numbers]] = []
        self._evaluations: Evaluations = {}
        self._tokens = self._step = 0.0

    def wanted(self, step: Event | None) -> tuple[str, ...]:
        """The keys of `step` events that `add` needs, where this is one of them."""
        if not self.keys and step is not None:
            known = (key for key, value in step.items() if value is None or as_number(value) is not None)
            self.keys = tuple(key for key in known if key not in NOT_METRICS)
        return (*NEEDED, *self.keys)

    def add(self, lines: Lines) -> None:
        """Takes the next lines of the file."""
        add_evaluations(self._evaluations, lines)
        for rows in self._evaluations.values():
            del rows[:-MOST_ROWS]
        if not lines.num_steps:
            return
        self.num_steps += lines.num_steps
        steps = lines.steps["step"]
        tokens = self._tokens + np.cumsum(tokens_of_steps(lines.steps, min(self._step, float(steps[0]))))
        self._tokens, self._step = float(tokens[-1]), float(steps[-1])
        self._new.append({key: lines.steps[key] for key in (*AXES[:3], *self.keys)} | {"tokens": tokens})
        if sum(len(part["step"]) for part in self._new) > AT_ONCE:
            self.shrink()

    def shrink(self) -> None:
        """Drops all but the points that are kept. To be called when nothing more is read for a while."""
        if not self._new:
            return
        new = {key: np.concatenate([part[key] for part in self._new]) for key in (*AXES, *self.keys)}
        self._new = []
        for key in self.keys:
            before = self._kept.get(key, {})
            columns = {name: np.concatenate([before.get(name, new[name][:0]), new[name]]) for name in (*AXES, key)}
            if len(columns["step"]) > 2 * POINTS:
                number = np.arange(len(columns["step"]), dtype=np.float64)
                kept = downsample(number, columns[key], POINTS)[0].astype(np.int64)
                columns = {name: column[kept] for name, column in columns.items()}
            self._kept[key] = columns

    def evaluations(self, metric: str) -> dict[int, float]:
        """Step -> the value of a metric of an evaluation, nan where it was null; the newest of a step."""
        return {int(step): value for step, _, value in self._evaluations.get(metric, ())}

    def series(self, metric: str, window: Window, began: float) -> Series | None:
        """The curve of a metric by the points that are kept; None if the run has none."""
        self.shrink()
        if (key := key_of(metric)) is not None:
            curve = curve_of_steps(self._kept[key], key, window, began) if key in self._kept else None
            is_all = window.begin is None and window.end is None
            return replace(curve, count=self.num_steps) if curve is not None and is_all else curve
        steps = next(iter(self._kept.values()), dict.fromkeys(AXES, np.empty(0)))
        return curve_of_evaluations(self._evaluations.get(metric, ()), steps, window, began)


def add_evaluations(evaluations: Evaluations, lines: Lines) -> None:
    """Adds the evaluations among these lines."""
    for _, event in lines.others:
        if event["event"] in EVALUATIONS and (step := as_number(event.get("step"))) is not None:
            for metric, value in of_evaluation(event):
                evaluations.setdefault(metric, []).append((step, event["time"], value))
