"""The curves of runs: whole columns of the files that are looked at, within a limit of memory.

The columns of the runs that were asked for last are kept, and only read on when their files grow. For a run whose file
is long, only the columns that were asked for are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shardtune.launcher.dashboard.read.downsample import Numbers, downsample
from shardtune.launcher.dashboard.read.lines import as_number, parse_lines
from shardtune.launcher.dashboard.read.metric_names import key_of, of_evaluation
from shardtune.launcher.dashboard.read.metrics_file import MetricsFile
from shardtune.run_dir.files import METRICS

Axis = Literal["step", "tokens", "time", "epoch"]
ALWAYS = ("step", "time", "epoch", "tokens_per_s", "step_time_s")
"""Columns that the axes are made of."""
MOST_BYTES = 64 * 2**20
"""Memory of the columns that are kept."""
MOST_DRAWN = 1000
"""Curves that are kept as they were drawn: about 20 KB each."""
SHORT = 8 * 2**20
"""Of a file below this size all columns that any run has are kept."""


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


@dataclass
class _Evaluations:
    """Step, time and value of each evaluation with a metric."""

    rows: list[tuple[float, float, float]] = field(default_factory=list)


class Columns:
    """The numbers of one run."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / METRICS
        self._lock = threading.Lock()
        self._forget(())

    def read(self, keys: Iterable[str], others: Iterable[str]) -> None:
        """Reads what is new, or the whole file if a column of `keys` is missing, and then those of `others` too if it
        is short. Raises OSError."""
        with self._lock:
            if not set(keys) <= set(self._keys):
                is_short = self._path.stat().st_size < SHORT
                self._forget([*self._keys, *keys, *(others if is_short else ())])
            for block in self._metrics.blocks():
                if block.is_first:
                    self._forget(self._keys, self._metrics)
                lines = parse_lines(block.data, self._keys)
                for key in self._keys:
                    self._parts[key].append(lines.steps[key])
                for _, event in lines.others:
                    if event["event"] == "eval" and (step := as_number(event.get("step"))) is not None:
                        for metric, value in of_evaluation(event):
                            rows = self._evaluations.setdefault(metric, _Evaluations()).rows
                            rows.append((step, event["time"], value))
            for key, parts in self._parts.items():
                if len(parts) > 1:
                    self._parts[key] = [np.concatenate(parts)]

    @property
    def num_bytes(self) -> int:
        """The memory of the columns."""
        return sum(part.nbytes for parts in self._parts.values() for part in parts)

    def series(self, metric: str, window: Window, began: float) -> Series | None:
        """The curve of a metric; None if the run has none. `began` is the time from which time is counted."""
        with self._lock:
            steps = {key: parts[0] if parts else np.empty(0) for key, parts in self._parts.items()}
            evaluated = self._evaluations.get(metric)
            rows = list(evaluated.rows) if evaluated is not None else []
        kept = _not_repeated(steps["step"])
        steps = {key: column[kept] for key, column in steps.items()}
        if (key := key_of(metric)) is not None:
            if key not in steps:
                return None
            if not np.isfinite(steps[key]).any():
                return None
            return _shown(_axis(steps, window.axis, began), steps[key], window)
        if not rows:
            return None
        at, times, values = np.array(rows, dtype=np.float64).T
        kept = _not_repeated(at)
        return _shown(_axis_at(at[kept], times[kept], steps, window.axis, began), values[kept], window)

    def _forget(self, keys: Sequence[str], metrics: MetricsFile | None = None) -> None:
        self._keys = tuple(dict.fromkeys((*ALWAYS, *keys)))
        self._metrics = metrics or MetricsFile(self._path)
        self._parts: dict[str, list[Numbers]] = {key: [] for key in self._keys}
        self._evaluations: dict[str, _Evaluations] = {}


class SeriesStore:
    """The curves of the runs that were asked for last."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._columns: OrderedDict[Path, Columns] = OrderedDict()
        self._drawn: OrderedDict[tuple[Any, ...], Series | None] = OrderedDict()
        """Curves by file, metric and window: a run that has ended need not be read again when its columns are gone."""

    def series(
        self, run_dir: Path, metrics: Sequence[str], others: Iterable[str], window: Window, began: float
    ) -> dict[str, Series]:
        """The curves of these metrics, as far as the run has them; `others` are all metrics that it has.

        Raises OSError.
        """
        status = (run_dir / METRICS).stat()
        file = (run_dir, status.st_ino, status.st_size, status.st_mtime_ns, window, began)
        with self._lock:
            drawn = {metric: self._drawn[(*file, metric)] for metric in metrics if (*file, metric) in self._drawn}
        if missing := [metric for metric in metrics if metric not in drawn]:
            columns = self._read(run_dir, missing, others)
            new = {metric: columns.series(metric, window, began) for metric in missing}
            drawn |= new
            with self._lock:
                self._drawn |= {(*file, metric): curve for metric, curve in new.items()}
                while len(self._drawn) > MOST_DRAWN:
                    self._drawn.popitem(last=False)
        return {metric: curve for metric in metrics if (curve := drawn[metric]) is not None}

    @property
    def num_bytes(self) -> int:
        """The memory of all columns."""
        return sum(columns.num_bytes for columns in list(self._columns.values()))

    def _read(self, run_dir: Path, metrics: Iterable[str], others: Iterable[str]) -> Columns:
        with self._lock:
            columns = self._columns.pop(run_dir, None) or Columns(run_dir)
            self._columns[run_dir] = columns
        columns.read(*([key for key in map(key_of, names) if key is not None] for names in (metrics, others)))
        with self._lock:
            while self.num_bytes > self._most_bytes and len(self._columns) > 1:
                self._columns.popitem(last=False)
        return columns


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
        tokens = np.diff(steps["step"], prepend=0.0) * steps["tokens_per_s"] * steps["step_time_s"]
        x = np.cumsum(np.nan_to_num(tokens))
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
    return np.interp(at, *known)


def _shown(x: Numbers, y: Numbers, window: Window) -> Series:
    """The points in the window and one more on each side, so that the line goes on to its edges."""
    begin = 0 if window.begin is None else int(np.searchsorted(x, window.begin, side="left"))
    end = len(x) if window.end is None else int(np.searchsorted(x, window.end, side="right"))
    first, last = max(begin - 1, 0), min(end + 1, len(x))
    return Series(*downsample(x[first:last], y[first:last], window.points), count=max(end - begin, 0))
