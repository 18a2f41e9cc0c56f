"""What a viewer shows of a run, gathered from its events as they come; bounded, however long the run is."""

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shardtune.run_dir.follow.curve import Curve
from shardtune.run_dir.follow.life import Life
from shardtune.run_dir.follow.rank_tally import RankTally
from shardtune.run_dir.view.curves import is_metric
from shardtune.run_dir.view.progress import PLAIN_EVERY_S, event_line, start_line
from shardtune.run_dir.view.step_line import duration, step_numbers

DRAWN = ("loss", "lr", "grad_norm", "tokens_per_s", "step_time_s", "mfu", "lost_share", "memory_bytes")
"""The entries of `step` events that are curves."""
MAX_LINES = 500
MAX_METRICS = 40
STEP_LINE_ROOM = 52
"""Columns for the numbers of a step: so that a line of the log fits in 80."""
LOWER_IS_BETTER = ("loss", "perplexity", "mse", "mae", "rmse", "ece", "ece_scaled", "kl_to_base")
MINOR = ("loss", "perplexity")
"""Metrics that are shown in the list of runs only if there is no other."""


class Line(NamedTuple):
    """An event in words."""

    time: float
    text: str
    is_warning: bool = False


class RunHistory:
    """The state of a run after the events that it was given."""

    def __init__(self) -> None:
        self.curves: dict[str, Curve] = {}
        """Name, such as loss or dev/accuracy -> curve; times are seconds since the first event."""
        self.start: Mapping[str, Any] | None = None
        self.step: Mapping[str, Any] | None = None
        """The newest `step` event."""
        self.phase: str | None = None
        self.lines: deque[Line] = deque(maxlen=MAX_LINES)
        """Events as lines of a log; of the steps one for each PLAIN_EVERY_S."""
        self.faults: deque[Line] = deque(maxlen=MAX_LINES)
        """Alerts, starts after the first one, and steps that were lost."""
        self.num_starts = self.num_alerts = self.num_lost_steps = self.num_damaged = 0
        self.best: dict[str, float] = {}
        """The best value of each dev metric."""
        self.ranks = RankTally()
        self.life = Life()
        self.ended: str | None = None
        """finished or stopped, if that is the newest word on it."""
        self._first_time: float | None = None
        self._step_line_at = -math.inf

    def add_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Takes the next events of metrics.jsonl, in order. Those with unexpected values are counted as damaged."""
        for event in events:
            try:
                self._add(event)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                self.num_damaged += 1

    def metric(self, wanted: str | None = None) -> str | None:
        """The dev metric to show: the wanted one, or the first that is not the loss; None before an evaluation."""
        names = [name for name in self.curves if name.startswith("dev/")]
        if f"dev/{wanted}" in names:
            return f"dev/{wanted}"
        return next((name for name in names if name.removeprefix("dev/") not in MINOR), next(iter(names), None))

    def _add(self, event: Mapping[str, Any]) -> None:
        if self._first_time is None:
            self._first_time = event["time"]
        match event["event"]:
            case "step":
                self._add_step(event)
            case "begin":
                self._begin(event)
            case "start":
                start_line(event)  # which uses what a start must have
                self.start, self.phase, self.ended = event, None, None
                self.ranks = RankTally(event["step"])
            case "phase":
                self.phase = event["name"] or None
            case "eval" if event["split"] == "dev":
                self._add_evaluation(event)
            case "alert":
                self.num_alerts += 1
                self.faults.append(Line(event["time"], f"{event['title']}: {event['text']}", is_warning=True))
            case "lost":
                self.num_lost_steps += event["num_steps"]
                lost = f"{event['num_steps']:,} steps after step {event['step']:,} ({duration(event['seconds'])})"
                self.faults.append(Line(event["time"], f"lost, to be done again: {lost}"))
            case "stopped":
                self.ended = "stopped"
                self.faults.append(Line(event["time"], str(event_line(event))))
            case "done":
                self.ended = "finished"
        self.life.add(event)
        self._add_line(event)

    def _begin(self, event: Mapping[str, Any]) -> None:
        self.num_starts += 1
        self.ended = None
        if self.num_starts > 1:
            job = f", job {event['job']}" if event.get("job") else ""
            self.faults.append(Line(event["time"], f"start {self.num_starts}{job}"))

    def _add_step(self, event: Mapping[str, Any]) -> None:
        number, at = int(event["step"]), event["time"] - (self._first_time or 0.0)
        if not math.isfinite(event.get("eta_s") or 0.0):
            raise ValueError("eta_s")
        for name in DRAWN:
            if name in event:
                self._curve(name).add(number, at, event[name])
        self.ranks.add(event)
        self.step, self.ended = event, None

    def _add_evaluation(self, event: Mapping[str, Any]) -> None:
        at = event["time"] - (self._first_time or 0.0)
        for name, value in event.items():
            if not (is_metric(name, value) or name == "loss") or len(self.curves) >= len(DRAWN) + MAX_METRICS:
                continue
            key = f"dev/{name}"
            self._curve(key).add(event["step"], at, value)
            if isinstance(value, float) and math.isfinite(value):
                better = min if name in LOWER_IS_BETTER else max
                self.best[key] = better(self.best.get(key, value), value)

    def _curve(self, name: str) -> Curve:
        if (curve := self.curves.get(name)) is None:
            curve = self.curves[name] = Curve()
        return curve

    def _add_line(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            if event["time"] - self._step_line_at < PLAIN_EVERY_S:
                return
            self._step_line_at = event["time"]
            self.lines.append(
                Line(event["time"], f"step {event['step']:,}  {step_numbers(event, room=STEP_LINE_ROOM)}")
            )
        elif (text := event_line(event)) is not None:
            self.lines.append(Line(event["time"], text, is_warning=event["event"] == "alert"))


def clock(seconds: float) -> str:
    """The local time of day, with the date unless that is today."""
    moment = time.localtime(seconds)
    is_today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M:%S" if is_today else "%m-%d %H:%M", moment)
