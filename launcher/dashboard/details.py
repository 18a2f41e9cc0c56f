"""Everything about one run: recipe, plan, results, faults, restarts, checkpoints, samples, machines; and its log."""

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shardtune.launcher.dashboard.read.digest import MOST_TEXT, Digest
from shardtune.launcher.dashboard.read.lines import as_number
from shardtune.launcher.dashboard.read.metrics_file import open_regular
from shardtune.launcher.dashboard.read.recipes import MOST_BYTES
from shardtune.launcher.dashboard.read.run import Run, checkpoint_steps, read_json, read_results, read_text
from shardtune.launcher.runs.monitor import job_outputs
from shardtune.run_dir.files import CHECKPOINTS, CONFIG, FORKED_FROM, failed_rank, failure_path
from shardtune.run_dir.view.plan_file import PLAN
from shardtune.run_dir.view.time_use import CAUSES

LOG_BYTES = 2**20
"""Bytes of the end of a log that are read."""
MOST_LINE = 10_000
"""Characters of a line of a log that are shown."""
MOST_FAILURES = 50
ENVIRONMENT = (
    "world_size", "device", "zero_stage", "precision", "attention", "packed", "num_parameters", "num_trained",
    "num_rows", "data",
)  # fmt: skip
"""Entries of a `start` event that tell how the run is trained."""


def details(run: Run) -> dict[str, Any]:
    """The answer to /api/runs/ID."""
    with run.lock:
        digest = run.digest
        step, start = digest.newest("step") or {}, digest.newest("start") or {}
        use = digest.time_use()
        found = {
            "rank_speed": _rank_speed(digest),
            "restarts": _restarts(digest),
            "samples": _samples(digest),
        }
        faults, saved, peak = [_fault(event) for event in digest.alerts], dict(digest.saved), digest.peak_memory
    results = read_results(run.path)
    checkpoints = _checkpoints(run.path, saved, results)
    seconds = sorted(use.seconds.items(), key=lambda item: -item[1]) if use is not None else []
    is_gpu = start.get("device") == "cuda"
    return {
        "id": run.id,
        "recipe_yaml": _text(run.path / CONFIG),
        "plan": read_json(run.path / PLAN),
        "results": results,
        "time_use": [
            {"cause": cause, "name": CAUSES.get(cause, cause), "seconds": spent, "share": spent / use.total_s}
            for cause, spent in seconds
            if spent and use is not None and use.total_s > 0
        ],
        "rank_speed": found["rank_speed"],
        "faults": sorted([*faults, *_failures(run.path)], key=lambda fault: float(fault["time"])),
        "restarts": found["restarts"],
        "checkpoints": checkpoints,
        "samples": found["samples"],
        "environment": {key: start[key] for key in ENVIRONMENT if key in start}
        | {"forked_from": (read_json(run.path / FORKED_FROM) or {}).get("run_dir")},
        "memory": {
            "gpu_gb": _gb(peak) if is_gpu else None,
            "gpu_reserved_gb": _gb(step.get("memory_reserved_bytes")),
            "host_gb": None if is_gpu else _gb(peak),
        },
        "gpu": {key.removeprefix("gpu_"): value for key, value in step.items() if key.startswith("gpu_")},
    }


def log_tail(run_dir: Path, num_lines: int) -> dict[str, Any]:
    """The last lines of the newest output of the run's jobs, or of rank 0's log."""
    for path in _logs(run_dir):
        try:
            descriptor = open_regular(path)
        except OSError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, LOG_BYTES, max(0, size - LOG_BYTES))
        finally:
            os.close(descriptor)
        lines = data.decode("utf-8", "replace").split("\n")
        whole = lines[1:] if size > LOG_BYTES else lines
        shown = whole[:-1] if whole[-1:] == [""] else whole
        name = str(path.relative_to(run_dir.resolve()))
        return {"file": name, "lines": [line.rpartition("\r")[2][:MOST_LINE] for line in shown[-num_lines:]]}
    return {"file": "", "lines": []}


def _logs(run_dir: Path) -> Iterator[Path]:
    """The logs of the run, those that tell most first; only files that lie within its directory."""
    try:
        outputs = job_outputs(run_dir)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):  # a damaged file
        outputs = []
    folder = run_dir.resolve()
    for path in (*outputs, *(run_dir / "logs" / name for name in ("rank-0.log", "launcher.log"))):
        try:
            resolved = path.resolve()
            if resolved.is_relative_to(folder) and stat.S_ISREG(resolved.stat().st_mode) and resolved.stat().st_size:
                yield resolved
        except (OSError, RuntimeError):
            continue


def _rank_speed(digest: Digest) -> list[dict[str, Any]]:
    """The ranks that the others waited for, with the share of all ranks' time that this cost."""
    return [
        {"rank": rank, "host": digest.names_by_rank.get(rank, {}).get("host"), "share": lost / digest.num_measured}
        for rank, lost in sorted(digest.lost_by_rank.items(), key=lambda item: -item[1])
    ]


def _fault(event: Mapping[str, Any]) -> dict[str, Any]:
    text = ": ".join(str(event[key]) for key in ("title", "text") if event.get(key))
    return {"time": event["time"], "step": event.get("step"), "text": text[:MOST_TEXT]}


def _failures(run_dir: Path) -> Iterator[dict[str, Any]]:
    """Why ranks have failed."""
    pattern = failure_path(run_dir, "*")
    try:
        paths = sorted(pattern.parent.glob(pattern.name))[:MOST_FAILURES]
    except OSError:
        return
    for path in paths:
        record = read_json(path) or {}
        if as_number(record.get("time")) is not None and {"rank", "host", "text"} <= set(record):
            text = f"{failed_rank(record)} failed: {str(record['text']).strip()}"
            yield {"time": record["time"], "step": None, "text": text[-MOST_TEXT:]}


def _restarts(digest: Digest) -> list[dict[str, Any]]:
    """The starts after the first one, each with what came before it."""
    shown, before, num_starts = [], "", digest.num_starts - sum(e["event"] == "start" for e in digest.starts)
    for event in digest.starts:
        if event["event"] == "stopped":
            before = f"; stopped before: {event.get('reason')}"
        elif event["event"] == "lost":
            before += f"; {event.get('num_steps')} steps are done again"
        elif event["event"] == "start":
            if num_starts:
                text = f"started again at step {event.get('step')}{before or '; the start before ended without a word'}"
                shown.append({"time": event["time"], "text": text})
            num_starts, before = num_starts + 1, ""
    return shown


def _samples(digest: Digest) -> list[dict[str, Any]]:
    """The sample answers of the first and of the newest evaluation of each split."""
    names = {"prompt": "source", "reference": "target", "answer": "output"}
    return [
        {"split": split, "step": event["step"], "row": row}
        | {names.get(key, key): text for key, text in answer.items()}
        for split, events in digest.samples.items()
        for event in events
        for row, answer in enumerate(event["answers"])
    ]


def _checkpoints(
    run_dir: Path, saved: Mapping[int, Mapping[str, Any]], results: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The checkpoints that are there."""
    steps = checkpoint_steps(run_dir)
    best = (results or {}).get("best_step")
    if best is None and steps:
        manifest = read_json(run_dir / CHECKPOINTS / f"step-{steps[-1]}" / "manifest.json") or {}
        best = ((manifest.get("checkpoint") or {}).get("state") or {}).get("best_step")
    return [
        {
            "step": step,
            "time": saved.get(step, {}).get("time"),
            "bytes": saved.get(step, {}).get("num_bytes"),
            "best": step == best,
        }
        for step in steps
    ]


def _gb(num_bytes: Any) -> float | None:
    number = as_number(num_bytes)
    return number / 1e9 if number else None


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except OSError:
        return ""
