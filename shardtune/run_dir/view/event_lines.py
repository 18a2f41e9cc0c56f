"""The lines of metrics.jsonl -> events, whatever a crash, a clock or an older version has left there."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shardtune.run_dir.events.line_file import LineFile
from shardtune.run_dir.files import METRICS

BLOCK_BYTES = 1 << 23
"""So much of the file is read at a time."""
STEP_LINE = b'{"event": "step"'
"""How the reporter begins the line of a step."""
NEEDED: dict[str, dict[str, Any]] = {
    "start": {"step": 0},
    "lost": {"step": 0, "num_steps": 0, "seconds": 0.0},
    "phase": {"name": None},
    "alert": {"title": "", "text": ""},
    "notice": {"text": ""},
    "stopped": {"step": 0, "reason": ""},
}
"""Kind of an event -> what those who read it rely on; older versions did not write all of it."""
Event = dict[str, Any]


def read_milestones(run_dir: Path) -> list[Event]:
    """The events of a run directory, but of the `step` events between two others only the last: the other lines of
    steps are not parsed. Raises OSError."""
    events: list[Event] = []
    step_line = b""
    for block in line_blocks(run_dir / METRICS) if (run_dir / METRICS).is_file() else ():
        for line in block:
            if line.startswith(STEP_LINE):
                step_line = line
                continue
            lines, step_line = ([step_line, line] if step_line else [line]), b""
            events += [completed_event(event, events) for event in map(parse_event, lines) if event is not None]
    last = parse_event(step_line) if step_line else None
    return events if last is None else [*events, completed_event(last, events)]


def line_blocks(path: Path) -> Iterator[list[bytes]]:
    """The complete lines of a file without their ends, some megabytes at a time. Raises OSError."""
    for block in LineFile(path).blocks(BLOCK_BYTES):
        yield block.lines()


def completed_event(event: Event, before: Sequence[Event]) -> Event:
    """The event with what others rely on, where it is missing or no number: its time is that of the one before it."""
    times = before[-1]["time"] if before else 0.0
    needed = {"time": times, **NEEDED.get(event["event"], {})}
    found = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in event.items()
    }
    if event["event"] == "begin":  # a time that is not known is not there
        found = {key: value for key, value in found.items() if value is not None}
    wrong = {key: value for key, value in needed.items() if is_number(value) and not is_number(found.get(key))}
    return {**needed, **found, **wrong}


def parse_event(line: bytes) -> Event | None:
    """The event of a line; None if it is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and isinstance(event.get("event"), str) else None


def is_number(value: Any) -> bool:
    """Whether a value of an event is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
