"""What the time of a run's whole life went to, from its events (docs/metrics.md). Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

CAUSES = {
    "useful": "training on real tokens",
    "padding": "training on padding",
    "waiting_for_ranks": "waiting for the slowest rank",
    "waiting_for_data": "waiting for data",
    "evaluating": "evaluating",
    "saving": "saving checkpoints",
    "exporting": "exporting the models",
    "repeated": "training that was lost and done again",
    "restarting": "from a failure to the next start",
    "starting": "starting: imports, loading, resuming",
    "preparing": "preparing the data",
    "queueing": "waiting in the queue",
    "other": "everything else",
}
"""Cause -> its name in words. Every second of a run's life has one of these."""
PHASES = {"evaluating": "evaluating", "saving": "saving", "exporting": "exporting"}
"""First word of a phase's name -> cause."""
Event = Mapping[str, Any]


@dataclass(frozen=True)
class TimeUse:
    """Seconds of a run's life by cause (CAUSES)."""

    seconds: Mapping[str, float]

    @property
    def total_s(self) -> float:
        """From the first submission, or launch, to the newest event, without the time between launches."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float | None:
        """The part of the time that trained on real tokens and was not lost; None for a run that has not begun."""
        return self.seconds["useful"] / self.total_s if self.total_s > 0 else None


def time_use(events: Iterable[Event]) -> TimeUse:
    """What the time went to that these events of metrics.jsonl, in their order, account for."""
    counter = TimeUseCounter()
    for event in events:
        counter.add(event)
    return counter.result()


class TimeUseCounter:
    """Adds up what the time of a run went to, so that what was counted once need not be kept."""

    def __init__(self) -> None:
        self._before = dict.fromkeys(CAUSES, 0.0)
        """Seconds until this start began."""
        self._start: _Start | None = None

    def add(self, event: Event) -> None:
        """Takes the next event."""
        # The events of versions that did not write `begin` are one start.
        if event["event"] == "begin" or self._start is None:
            previous, self._start = self._start, _Start(event)
            if previous is not None:
                self._before = _sum(self._before, previous.seconds())
            for cause, spent in self._start.time_since(previous):
                self._before[cause] += max(0.0, spent)
        self._start.add(event)

    @property
    def step(self) -> int:
        """The step after which the next `step` event counts; 0 before the first start."""
        return 0 if self._start is None else self._start.step

    def result(self) -> TimeUse:
        """What the time went to until the newest event."""
        return TimeUse(self._before if self._start is None else _sum(self._before, self._start.seconds()))


def _sum(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {cause: spent + other[cause] for cause, spent in one.items()}


class _Start:
    """What the time of one start went to, from the begin of its process to its newest event."""

    def __init__(self, first: Event) -> None:
        self._first, self._last = first, float(first["time"])
        self._began = float(first.get("process_began", first["time"]))
        self._ready: float | None = None
        self.step = 0
        self._phase: tuple[str, float] | None = None
        self._seconds = dict.fromkeys(CAUSES, 0.0)

    def time_since(self, previous: "_Start | None") -> Iterable[tuple[str, float]]:
        """What the time between the end of the previous start and the begin of this one went to."""
        launched = self._first.get("launched")
        if launched is None:
            return
        if previous is not None and launched == previous._first.get("launched"):
            yield "restarting", self._began - previous._last
            return
        yield "preparing", self._began - launched
        if (queued := self._first.get("queued")) is not None:
            yield "queueing", launched - max(queued, previous._last if previous is not None else queued)

    def add(self, event: Event) -> None:
        kind, self._last = event["event"], event["time"]
        if kind == "start" and self._ready is None:
            self._ready, self.step = event["time"], event["step"]
        elif kind == "step":
            add_steps(self._seconds, event, event["step"] - self.step)
            self.step = event["step"]
        elif kind == "lost":
            self._seconds["repeated"] += event["seconds"]
            self.step = min(self.step, event["step"])
        elif kind == "phase" and self._ready is not None and event["time"] >= self._ready:
            self._seconds = self._with_phase()
            name = event["name"]
            self._phase = (PHASES.get(name.split()[0], "other"), event["time"]) if name else None

    def seconds(self) -> dict[str, float]:
        """Seconds by cause until the newest event."""
        seconds = self._with_phase()
        seconds["starting"] = (self._last if self._ready is None else self._ready) - self._began
        seconds["other"] += max(0.0, self._last - self._began - sum(seconds.values()))
        return seconds

    def _with_phase(self) -> dict[str, float]:
        """The seconds so far, with those of the phase that it is in."""
        seconds = dict(self._seconds)
        if self._phase is not None:
            seconds[self._phase[0]] += self._last - self._phase[1]
        return seconds


def add_steps(seconds: dict[str, float], event: Event, num_steps: int) -> None:
    """Adds what the time of the steps of one `step` event went to."""
    took_s, waited_s = (num_steps * (event.get(key) or 0.0) for key in ("step_time_s", "data_wait_s"))
    waited_s = min(waited_s, took_s)
    lost_s = (took_s - waited_s) * (event.get("lost_share") or 0.0)
    real = event.get("padding_efficiency")
    computed_s = took_s - waited_s - lost_s
    seconds["waiting_for_data"] += waited_s
    seconds["waiting_for_ranks"] += lost_s
    seconds["useful"] += computed_s * (1.0 if real is None else real)
    seconds["padding"] += computed_s * (0.0 if real is None else 1 - real)


def merged_steps(num_steps: Any, numbers: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of one `step` event to which as much time of each cause is due as to all of these together.

    `num_steps` and the numbers (`step_time_s`, `data_wait_s`, `lost_share`, `padding_efficiency`, as in the events, but
    without gaps) are NumPy arrays with an element for each of the events.
    """
    took_s, waited_s = num_steps * numbers["step_time_s"], num_steps * numbers["data_wait_s"]
    waited_s = waited_s.clip(max=took_s)
    busy_s = took_s - waited_s
    lost_s = busy_s * numbers["lost_share"]
    computed_s = busy_s - lost_s
    useful_s = computed_s * numbers["padding_efficiency"]
    return {
        "step_time_s": _ratio(took_s, num_steps),
        "data_wait_s": _ratio(waited_s, num_steps),
        "lost_share": _ratio(lost_s, busy_s),
        "padding_efficiency": _ratio(useful_s, computed_s),
    }


def _ratio(parts: Any, wholes: Any) -> float:
    whole = float(wholes.sum())
    return float(parts.sum()) / whole if whole else 0.0


def lost_event(dropped: Sequence[Event], resumed_step: int) -> dict[str, Any] | None:
    """The `lost` event of the `step` events that a rollback or a resume drops; None if it drops none."""
    steps = [event for event in dropped if event.get("event") == "step"]
    if not steps:
        return None
    numbers = [resumed_step, *(event["step"] for event in steps)]
    seconds = sum(
        (after - before) * (event.get("step_time_s") or 0.0)
        for (before, after), event in zip(pairwise(numbers), steps, strict=True)
    )
    lost = {"step": resumed_step, "num_steps": numbers[-1] - resumed_step, "seconds": seconds}
    return {"event": "lost", "time": dropped[-1]["time"], **lost}
