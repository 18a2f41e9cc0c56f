"""What was predicted of a run beside what became of it. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from shardtune.run_dir.view.results import in_words
from shardtune.run_dir.view.time_use import time_use

Event = Mapping[str, Any]
NOT_PREDICTED = ("preparing", "queueing", "restarting", "repeated")
"""What a plan's time of a run does not contain."""


@dataclass(frozen=True)
class Compared:
    """A number that was predicted, and the real one."""

    name: str
    predicted: float
    real: float
    unit: str
    """`GB`, `s`, `tokens/s` or `time`."""

    @property
    def error(self) -> float:
        """The prediction's, relative to the real number: 0.1 for a prediction that is 10 % too high."""
        return self.predicted / self.real - 1

    def cells(self) -> tuple[str, str, str, str]:
        """Name, prediction, real number and error in words."""
        return self.name, _words(self.predicted, self.unit), _words(self.real, self.unit), f"{self.error:+.0%}"


def compare(plan: Mapping[str, Any] | None, events: Sequence[Event], typical: Event | None = None) -> list[Compared]:
    """What was predicted (plan_file) and is known by now, by the events of metrics.jsonl; empty if nothing is.

    `typical` has the medians of the steps since the newest start, where the events do not have each step.
    """
    if plan is None:
        return []
    found = []
    for name, key, real, unit in _real(events, typical):
        predicted = plan.get(key)
        if isinstance(predicted, int | float) and predicted > 0 and real > 0:
            found.append(Compared(name, float(predicted), real, unit))
    return found


def real_numbers(events: Sequence[Event]) -> dict[str, float]:
    """What the events tell of what a plan predicts, by the plan's keys."""
    return {key: real for _, key, real, _ in _real(events, None) if real > 0}


def render_compared(compared: Sequence[Compared]) -> str:
    """The comparison as a table of text; an empty string if there is none."""
    rows = [HEAD, *(each.cells() for each in compared)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in lines) if compared else ""


HEAD = ("", "predicted", "real", "error")


def _real(events: Sequence[Event], typical: Event | None) -> Iterator[tuple[str, str, float, str]]:
    """(name, key of the plan, real number, unit) of what the events tell."""
    steps = _of_newest_start(events) if typical is None else [typical]
    if steps:
        yield "peak memory of a rank", "memory_bytes", float(max(step.get("memory_bytes", 0) for step in steps)), "GB"
        # Medians: the first steps of a start and those beside a checkpoint are slower.
        yield "time of a step", "step_s", median(step.get("step_time_s", 0.0) for step in steps), "s"
        yield (
            "tokens/s of all ranks",
            "tokens_per_s",
            median(step.get("tokens_per_s", 0.0) for step in steps),
            "tokens/s",
        )
    if any(event["event"] == "done" for event in events):
        seconds = time_use(events).seconds
        spent = sum(value for cause, value in seconds.items() if cause not in NOT_PREDICTED)
        yield "time of the run", "run_s", spent, "time"


def _of_newest_start(events: Sequence[Event]) -> list[Event]:
    """The `step` events since the newest start, which the plan is of."""
    begins = [number for number, event in enumerate(events) if event["event"] == "start"]
    return [event for event in events[begins[-1] if begins else 0 :] if event["event"] == "step"]


def _words(number: float, unit: str) -> str:
    if unit == "GB":
        return f"{number / 1e9:.2f} GB"
    if unit == "time":
        return in_words(number)
    return f"{number:,.3f} s" if unit == "s" else f"{number:,.0f}"
