"""The curves of runs: whole columns of the files that are looked at, within a limit of memory.

The columns of the runs that were asked for last are kept, and only read on when their files grow. For a run whose file
is long, only the columns that were asked for are kept.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shardtune.launcher.dashboard.read.axes import NEEDED, Series, Window, curve_of_evaluations, curve_of_steps
from shardtune.launcher.dashboard.read.downsample import Numbers
from shardtune.launcher.dashboard.read.lines import parse_lines
from shardtune.launcher.dashboard.read.metric_names import key_of
from shardtune.launcher.dashboard.read.metrics_file import OverError
from shardtune.launcher.dashboard.read.overview import Evaluations, add_evaluations
from shardtune.run_dir.events.line_file import LineFile
from shardtune.run_dir.files import METRICS

MOST_BYTES = 64 * 2**20
"""Memory of the columns that are kept."""
MOST_DRAWN = 1000
"""Curves that are kept as they were drawn: about 20 KB each."""
SHORT = 8 * 2**20
"""Of a file below this size all columns that any run has are kept."""


class Columns:
    """The numbers of one run."""

    def __init__(self, run_dir: Path, is_over: Callable[[], bool]) -> None:
        self._path, self._is_over = run_dir / METRICS, is_over
        self._lock = threading.Lock()
        self._forget(())

    def read(self, keys: Iterable[str], others: Iterable[str]) -> None:
        """Reads what is new, or the whole file if a column of `keys` is missing, and then those of `others` too if it
        is short. Raises OSError, OverError."""
        with self._lock:
            if not set(keys) <= set(self._keys):
                is_short = self._path.stat().st_size < SHORT
                self._forget([*self._keys, *keys, *(others if is_short else ())])
            for block in self._metrics.blocks():
                if self._is_over():
                    raise OverError
                if block.is_first:
                    self._forget(self._keys, self._metrics)
                lines = parse_lines(block.data, self._keys)
                for key in self._keys:
                    self._parts[key].append(lines.steps[key])
                add_evaluations(self._evaluations, lines)
            for key, parts in self._parts.items():
                if len(parts) > 1:
                    self._parts[key] = [np.concatenate(parts)]

    def unread(self, metrics: Iterable[str]) -> int:
        """The bytes that `read` would have to read for these metrics. Raises OSError."""
        size = self._path.stat().st_size
        has_all = all(key is None or key in self._keys for key in map(key_of, metrics))
        return max(size - self._metrics.offset, 0) if has_all else size

    @property
    def num_bytes(self) -> int:
        """The memory of the columns."""
        return sum(part.nbytes for parts in self._parts.values() for part in parts)

    def series(self, metric: str, window: Window, began: float) -> Series | None:
        """The curve of a metric; None if the run has none. `began` is the time from which time is counted."""
        with self._lock:
            steps = {key: parts[0] if parts else np.empty(0) for key, parts in self._parts.items()}
            rows = list(self._evaluations.get(metric, ()))
        if (key := key_of(metric)) is not None:
            return curve_of_steps(steps, key, window, began)
        return curve_of_evaluations(rows, steps, window, began)

    def _forget(self, keys: Sequence[str], metrics: LineFile | None = None) -> None:
        self._keys = tuple(dict.fromkeys((*NEEDED, *keys)))
        self._metrics = metrics or LineFile(self._path)
        self._parts: dict[str, list[Numbers]] = {key: [] for key in self._keys}
        self._evaluations: Evaluations = {}


class SeriesStore:
    """The curves of the runs that were asked for last."""

    def __init__(self, is_over: Callable[[], bool] = lambda: False, most_bytes: int = MOST_BYTES) -> None:
        """Reading ends with OverError when `is_over`."""
        self._is_over, self._most_bytes = is_over, most_bytes
        self._lock = threading.Lock()
        self._columns: OrderedDict[Path, Columns] = OrderedDict()
        self._drawn: OrderedDict[tuple[Any, ...], Series | None] = OrderedDict()
        """Curves by file, metric and window: a run that has ended need not be read again when its columns are gone."""

    def series(
        self, run_dir: Path, metrics: Sequence[str], others: Iterable[str], window: Window, began: float
    ) -> dict[str, Series]:
        """The curves of these metrics, as far as the run has them; `others` are all metrics that it has.

        Raises OSError, OverError.
        """
        file, drawn = self._find_drawn(run_dir, metrics, window, began)
        if missing := [metric for metric in metrics if metric not in drawn]:
            columns = self._read(run_dir, missing, others)
            new = {metric: columns.series(metric, window, began) for metric in missing}
            drawn |= new
            with self._lock:
                self._drawn |= {(*file, metric): curve for metric, curve in new.items()}
                while len(self._drawn) > MOST_DRAWN:
                    self._drawn.popitem(last=False)
        return {metric: curve for metric in metrics if (curve := drawn[metric]) is not None}

    def unread(self, run_dir: Path, metrics: Sequence[str], window: Window, began: float) -> int:
        """The bytes that `series` would have to read. Raises OSError."""
        file, drawn = self._find_drawn(run_dir, metrics, window, began)
        if missing := [metric for metric in metrics if metric not in drawn]:
            columns = self._columns.get(run_dir)
            return columns.unread(missing) if columns is not None else int(file[2])
        return 0

    @property
    def num_bytes(self) -> int:
        """The memory of all columns."""
        return sum(columns.num_bytes for columns in list(self._columns.values()))

    def _find_drawn(
        self, run_dir: Path, metrics: Sequence[str], window: Window, began: float
    ) -> tuple[tuple[Any, ...], dict[str, Series | None]]:
        """What tells this state of the file and this window from others, and the curves that are drawn of it."""
        status = (run_dir / METRICS).stat()
        file = (run_dir, status.st_ino, status.st_size, status.st_mtime_ns, window, began)
        with self._lock:
            return file, {metric: self._drawn[(*file, metric)] for metric in metrics if (*file, metric) in self._drawn}

    def _read(self, run_dir: Path, metrics: Iterable[str], others: Iterable[str]) -> Columns:
        with self._lock:
            columns = self._columns.pop(run_dir, None) or Columns(run_dir, self._is_over)
            self._columns[run_dir] = columns
        columns.read(*([key for key in map(key_of, names) if key is not None] for names in (metrics, others)))
        with self._lock:
            while self.num_bytes > self._most_bytes and len(self._columns) > 1:
                self._columns.popitem(last=False)
        return columns
