"""metrics.jsonl -> columns of the numbers of its steps, and every other event: what pages and curves are drawn from.

A long run has a million lines of steps. They are read by blocks and kept as columns, 8 bytes a number: as dictionaries
they would take gigabytes. Between two other events, one `step` event stands for all of them, which has the same time.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shardtune.run_dir.files import METRICS
from shardtune.run_dir.view.event_lines import STEP_LINE, Event, completed_event, is_number, line_blocks, parse_event
from shardtune.run_dir.view.step_line import slowest

FEW_LINES = 64
"""Blocks with fewer step lines are parsed one by one: Arrow's reader takes longer to begin than to read these."""
KEYS = (
    "step", "time", "epoch", "loss", "lr", "grad_norm", "tokens_per_s", "mfu", "padding_efficiency", "step_time_s",
    "data_wait_s", "skipped_steps", "memory_bytes", "lost_share", "slowest_rank", "slowest_gpu", "gpu_utilization",
    "gpu_power_w", "gpu_temperature_c",
)  # fmt: skip
"""What is read of a step."""
Column = NDArray[np.float64]


@dataclass(frozen=True)
class History:
    """The events of a run."""

    events: Sequence[Event]
    """All in their order, but one `step` event for the whole row of them between two others: the last of these, with
    `step_time_s` and its shares as means of all."""
    steps: Mapping[str, Column]
    """Key of a `step` event, of KEYS -> its number in each of them, nan where it has none; all as long as `step`. Keys
    that no step has are not here, and steps that a resume did again are here once."""
    waited_for: Mapping[str, float]
    """Rank and where it runs -> sum of the `lost_share` of all step events in which it was the slowest."""
    num_unreadable: int = 0
    """Lines that are no event: damaged by a crash of the machine, or by hand."""

    def of_steps(self, key: str) -> tuple[Column, Column]:
        """(steps, finite values) of a key of the `step` events; empty if there are none."""
        if key not in self.steps:
            return np.empty(0), np.empty(0)
        is_finite = np.isfinite(self.steps[key])
        return self.steps["step"][is_finite], self.steps[key][is_finite]

    def of(self, kind: str) -> list[Event]:
        """The events of a kind other than `step`."""
        return [event for event in self.events if event["event"] == kind]

    def until(self, step: int) -> "History":
        """Without what came after this step."""
        events = [event for event in self.events if _number(event.get("step", 0)) <= step]
        is_kept = self.steps["step"] <= step if "step" in self.steps else slice(None)
        kept = {key: column[is_kept] for key, column in self.steps.items()}
        return History(events, kept, self.waited_for, self.num_unreadable)


def read_history(run_dir: Path) -> History:
    """The history of a run directory; an incomplete last line is skipped, and one that is no event counted.

    Raises OSError.
    """
    path = run_dir / METRICS
    return _collect(line_blocks(path)) if path.is_file() else history_of([])


def history_of(events: Iterable[Mapping[str, Any]]) -> History:
    """The history of events in memory."""
    return _collect([[dict(event) for event in events]])


def _collect(blocks: Iterable[Sequence[bytes | Event]]) -> History:
    events: list[Event] = []
    tables: list[dict[str, Column]] = []
    waited_for: dict[str, float] = {}
    num_unreadable = 0
    step = 0.0
    for block in blocks:
        others, rows, num_bad = _sorted_out(block)
        num_unreadable += num_bad
        table, bad_rows = _table(rows)
        num_unreadable += len(bad_rows)
        for name, share in table.waited_for.items():
            waited_for[name] = waited_for.get(name, 0.0) + share
        at = 0
        for position, event in [*others, (len(rows), None)]:
            begin, at = at, position - sum(number < position for number in bad_rows) if bad_rows else position
            if at > begin:
                step = _add_condensed(events, {key: column[begin:at] for key, column in table.columns.items()}, step)
            if event is not None:
                events.append(completed_event(event, events))
                if event["event"] in ("start", "lost"):
                    step = events[-1]["step"]
        tables.append(table.columns)
    return History(events, _joined(tables), waited_for, num_unreadable)


def _sorted_out(block: Sequence[bytes | Event]) -> tuple[list[tuple[int, Event]], list[bytes], int]:
    """The events other than steps, each with the number of steps before it, the lines of the steps, and the number of
    lines that are no event."""
    others: list[tuple[int, Event]] = []
    rows: list[bytes] = []
    num_bad = 0
    for line in block:
        if isinstance(line, bytes) and line.startswith(STEP_LINE):
            rows.append(line)
            continue
        event = line if isinstance(line, dict) else parse_event(line)
        if event is None:
            num_bad += 1
        elif event["event"] == "step":
            rows.append(json.dumps(event).encode())
        else:
            others.append((len(rows), event))
    return others, rows, num_bad


@dataclass(frozen=True)
class _Table:
    """The step lines of a block."""

    columns: dict[str, Column]
    waited_for: dict[str, float]


def _table(rows: Sequence[bytes]) -> tuple[_Table, list[int]]:
    """The columns of step lines, and the numbers of those that are none."""
    if len(rows) >= FEW_LINES and (read := _read_by_arrow(rows)) is not None:
        return read, []
    parsed = [parse_event(line) for line in rows]
    bad = [number for number, event in enumerate(parsed) if event is None or not is_number(event.get("step"))]
    events = [event for number, event in enumerate(parsed) if event is not None and number not in set(bad)]
    columns = {key: _finite(np.array([_number(event.get(key)) for event in events], dtype=np.float64)) for key in KEYS}
    columns = {key: column for key, column in columns.items() if not np.isnan(column).all()}
    waited_for: dict[str, float] = {}
    for event in events:
        if is_number(event.get("lost_share")) and "slowest_rank" in event:
            name = slowest({"slowest_host": "?", "slowest_gpu": None, **event})
            waited_for[name] = waited_for.get(name, 0.0) + float(event["lost_share"])
    return _Table(columns, waited_for), bad


def _read_by_arrow(rows: Sequence[bytes]) -> _Table | None:
    """What _table returns, 30 times as fast; None for lines that Arrow refuses, such as those with NaN."""
    import pyarrow as pa
    from pyarrow import json as arrow_json

    schema = pa.schema([*(pa.field(key, pa.float64()) for key in KEYS), pa.field("slowest_host", pa.string())])
    data = b"\n".join(rows)
    try:
        table = arrow_json.read_json(
            io.BytesIO(data),
            read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
    except pa.ArrowInvalid:
        return None
    columns = {key: _finite(table[key].to_numpy().astype(np.float64)) for key in KEYS}
    if table.num_rows != len(rows) or np.isnan(columns["step"]).any():
        return None
    waited_for = _waited_for(columns, table["slowest_host"].to_pylist())
    return _Table({key: column for key, column in columns.items() if not np.isnan(column).all()}, waited_for)


def _waited_for(columns: Mapping[str, Column], hosts: Sequence[str | None]) -> dict[str, float]:
    """Rank and where it runs -> sum of the shares lost to it."""
    lost: dict[str, float] = {}
    places = zip(columns["slowest_rank"].tolist(), columns["slowest_gpu"].tolist(), hosts, strict=True)
    sums: dict[tuple[float, str, str | None], float] = {}
    for (rank, gpu, host), share in zip(places, columns["lost_share"].tolist(), strict=True):
        if rank == rank and share == share:
            key = (rank, "" if gpu != gpu else str(int(gpu)), host)
            sums[key] = sums.get(key, 0.0) + share
    for (rank, gpu_name, host), total in sums.items():
        lost[slowest({"slowest_rank": int(rank), "slowest_host": host, "slowest_gpu": gpu_name or None})] = total
    return lost


def _add_condensed(events: list[Event], part: Mapping[str, Column], step: float) -> float:
    """Adds one `step` event for these, which follow on `step`; returns the last step.

    Its means are weighted so that time_use finds in it what it finds in all of them.
    """
    numbers = np.diff(part["step"], prepend=step)
    event: Event = {"time": events[-1]["time"] if events else 0.0}
    event |= {key: float(column[-1]) for key, column in part.items() if np.isfinite(column[-1])}
    event |= {"event": "step", "step": int(part["step"][-1])}

    def column(key: str, default: float) -> Column:
        return np.nan_to_num(part[key], nan=default) if key in part else np.full(len(numbers), default)

    took = numbers * column("step_time_s", 0.0)
    waited = np.minimum(numbers * column("data_wait_s", 0.0), took)
    lost = (took - waited) * column("lost_share", 0.0)
    computed = took - waited - lost
    count = numbers.sum() or 1.0
    for key, total, of in (
        ("step_time_s", took.sum(), count),
        ("data_wait_s", waited.sum(), count),
        ("lost_share", lost.sum(), (took - waited).sum()),
        ("padding_efficiency", (computed * column("padding_efficiency", 1.0)).sum(), computed.sum()),
    ):
        if key in part:
            event[key] = float(total / of) if of else event.get(key)
    if "memory_bytes" in part and np.isfinite(part["memory_bytes"]).any():
        event["memory_bytes"] = int(np.nanmax(part["memory_bytes"]))
    events.append(event)
    return float(part["step"][-1])


def _joined(tables: Sequence[dict[str, Column]]) -> dict[str, Column]:
    """The columns of all blocks one after another, without the steps that were done again later; empties the blocks."""
    tables = [table for table in tables if table]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    lengths = [len(table["step"]) for table in tables]
    columns = {}
    for key in keys:  # each is taken out of the blocks, so that nothing is there twice
        blocks = [table.pop(key, None) for table in tables]
        columns[key] = np.concatenate(
            [np.full(length, np.nan) if block is None else block for block, length in zip(blocks, lengths, strict=True)]
        )
    if not columns:
        return {}
    steps = columns["step"]
    lowest_later = np.append(np.minimum.accumulate(steps[::-1])[::-1][1:], np.inf)
    is_kept = steps < lowest_later
    return columns if is_kept.all() else {key: column[is_kept] for key, column in columns.items()}


def _finite(column: Column) -> Column:
    """The column with nan for what is not finite, or too large to be computed with."""
    return np.where(np.abs(column) < 1e100, column, np.nan)


def _number(value: Any) -> float:
    return float(value) if is_number(value) else float("nan")
