"""Everything about one run: recipe, plan, results, faults, restarts, checkpoints, samples, machines."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shardtune.launcher.dashboard.read.digest import MOST_TEXT, Digest
from shardtune.launcher.dashboard.read.lines import as_number
from shardtune.launcher.dashboard.read.recipes import MOST_BYTES
from shardtune.launcher.dashboard.read.run import Run, checkpoint_steps, read_json, read_results, read_text
from shardtune.launcher.dashboard.retained import retained
from shardtune.launcher.runs.status import RunStatus
from shardtune.run_dir.files import CHECKPOINTS, CONFIG, FORKED_FROM, failed_rank, failure_path
from shardtune.run_dir.view.plan_file import PLAN
from shardtune.run_dir.view.time_use import CAUSES, TimeUse

MOST_FAILURES = 50
NOT_ENVIRONMENT = ("event", "time", "step", "num_steps")
"""Entries of a `start` event that do not tell how or where the run is trained."""


def details(run: Run) -> dict[str, Any]:
    """The answer to /api/runs/ID."""
    with run.lock:
        digest, status, use = run.digest, run.status, run.digest.time_use()
        known = {
            "time_use": [] if use is None else _time_use(use),
            "rank_speed": _rank_speed(digest),
            "restarts": _restarts(digest),
            "samples": _samples(digest),
            "memory": _memory(digest),
            "gpu": _gpu(digest),
            "typical": digest.typical(),
        }
        start, alerts, saved = digest.newest("start") or {}, list(digest.alerts), dict(digest.saved)
    results, steps = read_results(run.path), checkpoint_steps(run.path)
    manifest = _newest_manifest(run.path, steps)
    best = (results or {}).get("best_step", _mapping(manifest.get("state")).get("best_step"))
    with run.lock:
        retention = retained(run, results, best)
    return known | {
        "id": run.id,
        "recipe_yaml": _text(run.path / CONFIG),
        "plan": read_json(run.path / PLAN),
        "results": results,
        "retention": retention,
        "faults": sorted([*map(_fault, alerts), *_failures(run.path)], key=lambda fault: float(fault["time"])),
        "checkpoints": [_checkpoint(step, saved.get(step, {}), is_best=step == best) for step in steps],
        "environment": _environment(run.path, start, status, manifest),
    }


def _time_use(use: TimeUse) -> list[dict[str, Any]]:
    """What the time went to, the largest part first."""
    seconds = sorted(use.seconds.items(), key=lambda item: -item[1])
    return [
        {"cause": cause, "name": CAUSES.get(cause, cause), "seconds": spent, "share": spent / use.total_s}
        for cause, spent in seconds
        if spent and use.total_s > 0
    ]


def _memory(digest: Digest) -> dict[str, float | None]:
    """The peak memory of a rank, in GB, where it was measured: on its GPU, or without one on the host."""
    is_gpu = (digest.newest("start") or {}).get("device") == "cuda"
    return {
        "gpu_gb": _gb(digest.peak_memory) if is_gpu else None,
        "gpu_reserved_gb": _gb((digest.newest("step") or {}).get("memory_reserved_bytes")),
        "host_gb": None if is_gpu else _gb(digest.peak_memory),
    }


def _gpu(digest: Digest) -> dict[str, Any]:
    """The newest values of the GPUs' sensors: utilization, power_w, temperature_c."""
    step = digest.newest("step") or {}
    return {key.removeprefix("gpu_"): value for key, value in step.items() if key.startswith("gpu_")}


def _environment(
    run_dir: Path, start: Mapping[str, Any], status: RunStatus | None, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """Where and how the run is trained."""
    return {key: value for key, value in start.items() if key not in NOT_ENVIRONMENT} | {
        "forked_from": (read_json(run_dir / FORKED_FROM) or {}).get("run_dir"),
        "job": status.job if status is not None else None,
        "nodes": status.nodes if status is not None else None,
        "versions": manifest.get("versions"),
    }


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


def _newest_manifest(run_dir: Path, steps: Sequence[int]) -> Mapping[str, Any]:
    """What the newest checkpoint says of itself; empty without any, or if it is damaged."""
    if not steps:
        return {}
    manifest = read_json(run_dir / CHECKPOINTS / f"step-{steps[-1]}" / "manifest.json") or {}
    return _mapping(manifest.get("checkpoint"))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _checkpoint(step: int, saved: Mapping[str, Any], *, is_best: bool) -> dict[str, Any]:
    return {"step": step, "time": saved.get("time"), "bytes": saved.get("num_bytes"), "best": is_best}


def _gb(num_bytes: Any) -> float | None:
    number = as_number(num_bytes)
    return number / 1e9 if number else None


def _text(path: Path) -> str:
    try:
        return read_text(path, MOST_BYTES)
    except OSError:
        return ""
