"""Run directories that no training has written: the events of metrics.jsonl, and what else a viewer reads."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Event = dict[str, Any]


def event(kind: str, time: float, **values: Any) -> Event:
    """An event."""
    return {"event": kind, "time": time, **values}


def start(time: float, step: int = 0, **values: Any) -> Event:
    """A `start` event of 2 ranks and 100 steps."""
    shape = {"num_steps": 100, "num_rows": 1000, "num_parameters": 22_000_000, "world_size": 2, "device": "cuda"}
    return event("start", time, step=step, **shape, zero_stage=2, precision="bf16", **values)


def step(number: int, time: float, **values: Any) -> Event:
    """A `step` event whose rank 1 is slower than rank 0."""
    numbers: dict[str, Any] = {
        "loss": 2.0 / number, "lr": 1e-5, "grad_norm": 1.0, "tokens_per_s": 48_000.0, "padding_efficiency": 0.9,
        "step_time_s": 1.0, "data_wait_s": 0.1, "eta_s": 100.0 - number, "memory_bytes": 40_000_000_000,
        "compute_s": [0.5, 0.8], "slowest_rank": 1, "slowest_host": "node1", "slowest_gpu": 1, "lost_share": 0.2,
    }  # fmt: skip
    return event("step", time, step=number, **numbers | values)


def life(num_steps: int, began: float = 1_796_000_000.0) -> list[Event]:
    """The events of a run that has come that far, with an evaluation after every tenth step."""
    events = [event("begin", began, process_began=began - 5, launched=began - 9), start(began + 10)]
    for number in range(1, num_steps + 1):
        events.append(step(number, began + 10 + number))
        if number % 10 == 0:
            events.append(event("eval", began + 10 + number, split="dev", step=number, loss=0.5, f1=number / 100))
    return events


def lines(events: Iterable[Event]) -> bytes:
    """The events as lines of metrics.jsonl."""
    return b"".join(json.dumps(each, ensure_ascii=False).encode() + b"\n" for each in events)


def write_run(run_dir: Path, events: Iterable[Event], *, is_going_on: bool = False) -> Path:
    """A run directory with these events; one that is going on has a lease that was just touched."""
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text("", encoding="utf-8")
    (run_dir / "metrics.jsonl").write_bytes(lines(events))
    if is_going_on:
        (run_dir / "lease.json").touch()
    return run_dir
