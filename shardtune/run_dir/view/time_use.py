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


def time_use(events: Sequence[Event]) -> TimeUse:
    """What the time went to that these events of metrics.jsonl, in their order, account for."""
    seconds = dict.fromkeys(CAUSES, 0.0)
    starts = _starts(events)
    for start in starts:
        for cause, spent in _of_start(start).items():
            seconds[cause] += spent
    for number, start in enumerate(starts):
        for cause, spent in _before(starts[number - 1] if number else None, start[0]):
            seconds[cause] += max(0.0, spent)
    return TimeUse(seconds)


def _starts(events: Sequence[Event]) -> list[list[Event]]:
    """The events of each start, which begin with `begin`; those of versions that did not write it are one start."""
    starts: list[list[Event]] = []
    for event in events:
        if event["event"] == "begin" or not starts:
            starts.append([])
        starts[-1].append(event)
    return starts


def _began(event: Event) -> float:
    """When the process of rank 0 began, by the first event of its start."""
    return float(event.get("process_began", event["time"]))


def _before(previous: Sequence[Event] | None, begin: Event) -> Iterable[tuple[str, float]]:
    """What the time between the end of the previous start and the begin of this one went to."""
    began, launched = _began(begin), begin.get("launched")
    if launched is None:
        return
    ended = previous[-1]["time"] if previous else None
    if previous and launched == previous[0].get("launched"):
        yield "restarting", began - previous[-1]["time"]
        return
    yield "preparing", began - launched
    if (queued := begin.get("queued")) is not None:
        yield "queueing", launched - max(queued, ended or queued)


def _of_start(start: Sequence[Event]) -> dict[str, float]:
    """What the time of one start went to, from the begin of its process to its last event."""
    seconds = dict.fromkeys(CAUSES, 0.0)
    ready = next((event for event in start if event["event"] == "start"), None)
    seconds["starting"] = (ready or start[-1])["time"] - _began(start[0])
    step = ready["step"] if ready is not None else 0
    phase: tuple[str, float] | None = None
    for event in start:
        if event["event"] == "step":
            add_steps(seconds, event, event["step"] - step)
            step = event["step"]
        elif event["event"] == "lost":
            seconds["repeated"] += event["seconds"]
            step = min(step, event["step"])
        elif event["event"] == "phase" and ready is not None and event["time"] >= ready["time"]:
            if phase is not None:
                seconds[phase[0]] += event["time"] - phase[1]
            name = event["name"]
            phase = (PHASES.get(name.split()[0], "other"), event["time"]) if name else None
    if phase is not None:
        seconds[phase[0]] += start[-1]["time"] - phase[1]
    life = start[-1]["time"] - _began(start[0])
    seconds["other"] += max(0.0, life - sum(seconds.values()))
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
