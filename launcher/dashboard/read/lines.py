"""Lines of metrics.jsonl -> columns of the numbers of its steps, and its other events.

Nearly all lines are `step` events. They are parsed by Arrow, which reads 300 MB in a second and makes no object for
each number; a block with a line that it does not take is parsed line by line, without the damaged lines.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as arrow_json
from numpy.typing import NDArray

Event = dict[str, Any]
Column = NDArray[np.float64]
STEP_LINES = (b'{"event": "step"', b'{"event":"step"')
AXES = ("step", "time")
"""The columns without which a step is of no use."""
FEW = 16
"""So few lines are parsed one by one: Arrow is slow to begin."""
_DECODER = json.JSONDecoder(strict=False)
JUNK = b"\0 \r\t"
"""What a crash of the machine may leave before a line."""


@dataclass(frozen=True)
class Lines:
    """The content of some lines of the file."""

    steps: Mapping[str, Column]
    """The `step` events: key -> its numbers, nan where there is none."""
    others: Sequence[tuple[int, Event]]
    """Each other event, with the number of the steps before it."""
    num_damaged: int = 0
    """Lines that are not events."""

    @property
    def num_steps(self) -> int:
        return len(self.steps["step"])


@dataclass
class _Sorted:
    """Lines, apart by kind."""

    steps: list[bytes] = field(default_factory=list)
    others: list[tuple[int, Event]] = field(default_factory=list)
    num_damaged: int = 0


def parse_lines(data: bytes, keys: Sequence[str]) -> Lines:
    """The events in these lines; of `step` events, the numbers of these keys, `step` and `time`."""
    lines = _sort(data)
    columns = _step_columns(lines.steps, tuple(dict.fromkeys((*AXES, *keys))))
    good = np.isfinite(columns["step"]) & np.isfinite(columns["time"])
    if good.all():
        return Lines(columns, lines.others, lines.num_damaged)
    before = np.concatenate([[0], np.cumsum(good)])
    return Lines(
        {key: column[good] for key, column in columns.items()},
        [(int(before[place]), event) for place, event in lines.others],
        lines.num_damaged + int((~good).sum()),
    )


def parse_event(line: bytes) -> Event | None:
    """The event of a line; None if it is none."""
    try:
        value = _DECODER.decode(line.strip(JUNK).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("event"), str):
        return None
    time = as_number(value.get("time"))
    return value if time is not None and math.isfinite(time) else None


def as_number(value: Any) -> float | None:
    """The value as a float; None if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def step_line_in(data: bytes) -> Event | None:
    """The last `step` event in these lines; None if there is none."""
    for line in reversed(data.split(b"\n")):
        if line.startswith(STEP_LINES) and (event := parse_event(line)) is not None:
            return event
    return None


def without_most_steps(data: bytes) -> bytes:
    """These lines without the `step` events, except for the first and the last one."""
    lines = data.split(b"\n")
    steps = [number for number, line in enumerate(lines) if line.startswith(STEP_LINES)]
    dropped = set(steps[1:-1])
    return b"\n".join(line for number, line in enumerate(lines) if number not in dropped)


def _sort(data: bytes) -> _Sorted:
    found = _Sorted()
    for line in data.split(b"\n"):
        if line.startswith(STEP_LINES):
            found.steps.append(line)
            continue
        if not (text := line.strip(JUNK)):
            continue
        event = parse_event(text)
        if event is None:
            found.num_damaged += 1
        elif event["event"] == "step":
            found.steps.append(text)
        else:
            found.others.append((len(found.steps), event))
    return found


def _step_columns(lines: Sequence[bytes], keys: Sequence[str]) -> dict[str, Column]:
    """Key -> the numbers of these lines, nan for what is missing; a damaged line is nan throughout."""
    if not lines:
        return {key: np.empty(0) for key in keys}
    with contextlib.suppress(pa.ArrowInvalid):
        columns = _by_arrow(lines, keys) if len(lines) > FEW else {}
        if columns and all(len(column) == len(lines) for column in columns.values()):
            return columns
    rows = list(_by_hand(lines, keys))
    return {key: np.array([row[number] for row in rows], dtype=np.float64) for number, key in enumerate(keys)}


def _by_arrow(lines: Sequence[bytes], keys: Sequence[str]) -> dict[str, Column]:
    """Raises ArrowInvalid for what is not JSON, or not a number."""
    data = b"\n".join(lines)
    table = arrow_json.read_json(
        pa.BufferReader(data),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=pa.schema([(key, pa.float64()) for key in keys]), unexpected_field_behavior="ignore"
        ),
    )
    return {key: np.concatenate([_numbers(chunk) for chunk in table.column(key).chunks]) for key in keys}


def _numbers(array: Any) -> Column:
    """The numbers of an Arrow array of doubles, nan for null. (Its own to_numpy imports pandas: 50 MB.)"""
    bitmap, values = array.buffers()
    if values is None:
        return np.full(len(array), np.nan)
    numbers: Column = np.frombuffer(values, dtype=np.float64, count=array.offset + len(array))[array.offset :]
    if not array.null_count:
        return numbers
    is_known = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8), bitorder="little").astype(bool)
    return np.where(is_known[array.offset : array.offset + len(array)], numbers, np.nan)


def _by_hand(lines: Sequence[bytes], keys: Sequence[str]) -> Iterator[list[float]]:
    for line in lines:
        event = parse_event(line) or {}
        numbers = (as_number(event.get(key)) for key in keys)
        yield [np.nan if number is None else number for number in numbers]
