"""What the table and the page of one run show, added up from its events as they come."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shardtune.launcher.dashboard.read.lines import Event, Lines, as_number
from shardtune.launcher.dashboard.read.metric_names import EVALUATIONS, of_evaluation, rows_of
from shardtune.metrics.direction import is_lower_better
from shardtune.run_dir.view.step_line import slowest
from shardtune.run_dir.view.time_use import TimeUse, TimeUseCounter, merged_steps

KEPT = 500
"""The newest events of a kind that are kept; all of them are counted."""
TIMES = ("step_time_s", "data_wait_s", "lost_share", "padding_efficiency")
SUMMED = (*TIMES, "tokens_per_s", "memory_bytes", "slowest_rank")
"""Keys of `step` events whose numbers are added up."""
PREDICTED = ("step_time_s", "tokens_per_s")
"""Keys of `step` events that a plan predicts."""
TYPICAL = 100
"""Newest steps whose median is taken as what a step is like."""
MOST_TEXT = 4000
"""Characters of a sample that are kept."""
MOST_SAMPLES = 20
"""Answers of an evaluation that are kept."""


@dataclass(frozen=True)
class Best:
    """The best value of a metric."""

    value: float
    step: int
    higher_is_better: bool


@dataclass
class Digest:
    """What is known of a run by its events; with gaps as long as only both ends of its file were read."""

    is_whole: bool = True
    first_time: float | None = None
    last_time: float | None = None
    tokens: float = 0.0
    num_alerts: int = 0
    num_starts: int = 0
    num_damaged: int = 0
    peak_memory: float = 0.0
    last: dict[str, float | None] = field(default_factory=dict)
    """Metric of an evaluation -> its newest value."""
    best: dict[str, Best] = field(default_factory=dict)
    alerts: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    starts: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT))
    """Begins, starts, stops and losses."""
    saved: dict[int, Event] = field(default_factory=dict)
    """Step -> its `checkpoint` event."""
    samples: dict[str, list[Event]] = field(default_factory=dict)
    """Split -> the first and the newest evaluation with answers."""
    lost_by_rank: dict[int, float] = field(default_factory=dict)
    """Rank -> the sum of `lost_share` of the steps whose slowest one it was."""
    num_measured: int = 0
    """The `step` events with a slowest rank."""
    names_by_rank: dict[int, Event] = field(default_factory=dict)
    """Rank -> a `step` event that names its machine."""
    _newest: dict[str, tuple[int, Event]] = field(default_factory=dict)
    _steps_of_start: deque[tuple[float, ...]] = field(default_factory=lambda: deque(maxlen=TYPICAL))
    """PREDICTED of the newest steps of the newest start."""
    _counter: TimeUseCounter = field(default_factory=TimeUseCounter)
    _num_events: int = 0
    _step: float = 0.0

    def add(self, lines: Lines, last_step: Event | None) -> None:
        """Takes the next lines of the file, and the last `step` event among them."""
        self.num_damaged += lines.num_damaged
        begin = 0
        for place, event in lines.others:
            self._add_steps(lines, begin, place)
            begin = place
            self._add_event(event)
        self._add_steps(lines, begin, lines.num_steps)
        if last_step is not None:
            # Among its lines it comes before the events that were taken after the last step.
            after = sum(place == lines.num_steps for place, _ in lines.others)
            self._newest["step"] = (self._num_events - after, last_step)
            self._name_rank(last_step)

    def newest(self, kind: str) -> Event | None:
        """The newest event of a kind, of `eval` events by split: `eval dev`; None if there is none."""
        return self._newest[kind][1] if kind in self._newest else None

    def events(self) -> list[Event]:
        """The newest event of each kind, in the order of the file."""
        return [event for _, event in sorted(self._newest.values(), key=lambda found: found[0])]

    def typical(self) -> dict[str, float]:
        """The medians of PREDICTED over the newest steps: a single one may be that beside a checkpoint."""
        rows = np.array(self._steps_of_start, dtype=np.float64).reshape(-1, len(PREDICTED))
        columns = dict(zip(PREDICTED, rows.T, strict=True))
        return {key: float(np.nanmedian(column)) for key, column in columns.items() if np.isfinite(column).any()}

    def time_use(self) -> TimeUse | None:
        """What the time of the run went to; None if that is not known yet."""
        if self.is_whole:
            return self._counter.result()
        known, begin = self._newest.get("time_use"), self._newest.get("begin")
        if known is None or (begin is not None and begin[0] > known[0]):
            return None
        seconds = {key: as_number(value) for key, value in known[1].items() if key not in ("event", "time", "goodput")}
        return TimeUse({key: value for key, value in seconds.items() if value is not None})

    def _add_steps(self, lines: Lines, begin: int, end: int) -> None:
        if begin == end:
            return
        steps, times = lines.steps["step"][begin:end], lines.steps["time"][begin:end]
        part = {key: lines.steps[key][begin:end] for key in SUMMED}
        self._steps_of_start.extend(zip(*(part[key][-TYPICAL:].tolist() for key in PREDICTED), strict=True))
        self._see(float(times[0]))
        if self._num_events == 0:  # a file whose first lines are missing
            self._counter.add({"event": "begin", "time": float(times[0])})
        self._num_events += 1
        numbers = {key: np.nan_to_num(part[key], nan=1.0 if key == "padding_efficiency" else 0.0) for key in TIMES}
        merged = merged_steps(np.diff(steps, prepend=self._counter.step), numbers)
        self._counter.add({"event": "step", "step": int(steps[-1]), "time": float(times[-1]), **merged})
        tokens = np.diff(steps, prepend=min(self._step, steps[0])) * part["tokens_per_s"] * part["step_time_s"]
        self.tokens += float(np.nansum(tokens.clip(min=0.0)))
        self._step = float(steps[-1])
        self.peak_memory = max(self.peak_memory, float(np.nanmax(part["memory_bytes"], initial=0.0)))
        self._add_ranks(part["slowest_rank"], numbers["lost_share"])
        self.last_time = float(times[-1])

    def _add_ranks(self, slowest_rank: Any, lost_share: Any) -> None:
        known = np.isfinite(slowest_rank)
        self.num_measured += int(known.sum())
        for rank in np.unique(slowest_rank[known]):
            lost = float(lost_share[slowest_rank == rank].sum())
            self.lost_by_rank[int(rank)] = self.lost_by_rank.get(int(rank), 0.0) + lost

    def _add_event(self, event: Event) -> None:
        kind = event["event"]
        self._see(event["time"])
        self._num_events += 1
        key = f"{kind} {rows_of(event)}" if kind in EVALUATIONS else kind
        self._newest[key] = (self._num_events, _without_texts(event) if kind in EVALUATIONS else event)
        self._counter_add(event)
        if kind in EVALUATIONS:
            self._add_evaluation(event)
        elif kind == "alert":
            self.num_alerts += 1
            self.alerts.append(event)
        elif kind in ("begin", "start", "stopped", "lost"):
            if kind == "start":
                self.num_starts += 1
                self._steps_of_start.clear()
            self.starts.append(event)
            if kind == "lost" and as_number(event.get("step")) is not None:
                self._step = min(self._step, float(event["step"]))
        elif kind == "checkpoint" and as_number(event.get("step")) is not None:
            self.saved[int(event["step"])] = event
            if len(self.saved) > KEPT:
                del self.saved[next(iter(self.saved))]

    def _counter_add(self, event: Event) -> None:
        try:
            self._counter.add(event)
        except (KeyError, TypeError, AttributeError, IndexError):  # damaged, or of another version
            self.num_damaged += 1

    def _add_evaluation(self, event: Event) -> None:
        step = as_number(event.get("step"))
        for metric, value in of_evaluation(event):
            self.last[metric] = value
            before = self.best.get(metric)
            if step is None or not math.isfinite(value):
                continue
            higher = not is_lower_better(metric)
            if before is None or (value > before.value if higher else value < before.value):
                self.best[metric] = Best(value, int(step), higher)
        if answers := _answers(event):
            shown = {"step": event.get("step"), "time": event["time"], "answers": answers}
            rows = rows_of(event)
            self.samples[rows] = [*self.samples.get(rows, [])[:1], shown]

    def _name_rank(self, step: Event) -> None:
        if {"slowest_rank", "slowest_host", "slowest_gpu"} <= set(step):
            self.names_by_rank[int(step["slowest_rank"])] = {"name": slowest(step), "host": step["slowest_host"]}

    def _see(self, time: float) -> None:
        self.first_time = time if self.first_time is None else self.first_time
        self.last_time = time


def _answers(event: Event) -> list[dict[str, str]]:
    """The sample answers of an evaluation, as far as they are kept."""
    answers = event.get("answers")
    if not isinstance(answers, list):
        return []
    shown = [answer for answer in answers[:MOST_SAMPLES] if isinstance(answer, Mapping)]
    return [{str(key): str(value)[:MOST_TEXT] for key, value in answer.items()} for answer in shown]


def _without_texts(event: Event) -> Event:
    """The evaluation without what takes much memory: answers and matrices."""
    return {key: value for key, value in event.items() if not isinstance(value, list)}
