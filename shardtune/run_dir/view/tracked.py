"""The events of a run as trackers show them: numbers and texts under sectioned names, at a step and a time. Pure."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Value = float | str | list[dict[str, Any]]
"""A number (NaN where metrics.jsonl has null), a text, or the rows of a table."""

SECTIONS = {
    "perf": (
        *("tokens_per_s", "samples_per_s", "tflops_per_s", "mfu", "padding_efficiency", "step_time_s", "data_wait_s"),
        *("eta_s", "gpu_utilization", "gpu_power_w", "gpu_temperature_c"),
    ),
    "memory": ("memory_bytes", "memory_reserved_bytes", "memory_retries"),
    "ranks": ("lost_share", "slowest_rank", "slowest_gpu", "slowest_host"),
}
"""Section -> the entries of a `step` event that belong to it; the others are in `train`."""
SECTION_OF = {key: section for section, keys in SECTIONS.items() for key in keys}
NO_NUMBERS = ("event", "time", "step", "split", "slowest_gpu", "lower_is_better")
"""Entries that are no measurements; slowest_gpu is null on a CPU."""


class Record(NamedTuple):
    """What one event says."""

    step: int
    time: float
    """Seconds since the epoch."""
    values: dict[str, Value]


def records(events: Iterable[Mapping[str, Any]], step: int = 0) -> Iterator[Record]:
    """The records of events, in their order; those without one are skipped. `step` is that of the event before."""
    for event in events:
        if isinstance(given := event.get("step"), int):
            step = given
        if isinstance(time := event.get("time"), int | float) and (values := sectioned(event)):
            yield Record(step, float(time), values)


def sectioned(event: Mapping[str, Any]) -> dict[str, Value]:
    """The numbers and texts of an event by `section/name`; empty for events that trackers do not show.

    The section of an evaluation is `eval` for the dev split, `retention/SET` for a retention set, and else the name of
    the split. Lists, such as confusion matrices, stay in metrics.jsonl.
    """
    match event.get("event"):
        case "step":
            numbers = _numbers(event)
            return {f"{SECTION_OF.get(key.partition('/')[0], 'train')}/{key}": value for key, value in numbers}
        case "eval" | "retention":
            section = _section_of(event)
            values: dict[str, Value] = {f"{section}/{key}": value for key, value in _numbers(event)}
            return values | ({f"{section}/answers": rows} if (rows := _rows(event.get("answers"))) else {})
        case "checkpoint":
            return {f"checkpoint/{key}": value for key, value in _numbers(event)}
        case "time_use":
            return {f"time/{key}": value for key, value in _numbers(event)}
        case "lost":
            return {f"faults/lost_{key}": value for key, value in _numbers(event)}
        case "alert":
            return {"faults/alert": f"{event.get('title')}: {event.get('text')}"}
    return {}


def _section_of(evaluation: Mapping[str, Any]) -> str:
    if evaluation["event"] == "retention":
        return f"retention/{evaluation.get('set')}"
    return "eval" if evaluation.get("split") == "dev" else str(evaluation.get("split"))


def _numbers(entries: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in these entries, and `key/inner` for those in entries that are mappings."""
    for key, value in entries.items():
        if not prefix and key in NO_NUMBERS:
            continue
        if value is None:
            yield f"{prefix}{key}", math.nan
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")


def _rows(value: Any) -> list[dict[str, Any]]:
    """The value if it is the rows of a table, and else none."""
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        return value
    return []
