"""Where runs stand, from what their directories and the queue say. Values in, a table out; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shardtune.launcher.slurm.lifecycle import Cause, Start
from shardtune.launcher.slurm.text import QueuedJob, explain_reason
from shardtune.run_dir.progress import duration

ENDED_BY_SLURM: dict[str, Cause] = {
    "CANCELLED": "scancel", "TIMEOUT": "time limit", "NODE_FAIL": "node failure", "PREEMPTED": "preemption",
}  # fmt: skip
"""Slurm's word for a job -> why its last start has ended, where it had no time to say so itself."""


@dataclass(frozen=True)
class RunStatus:
    """One run."""

    run_dir: str
    state: str
    """running, pending, waiting (put back into the queue), stopped, failed, finished, new, or lost."""
    why: str
    """What explains the state, in plain words."""
    job: str | None
    nodes: str | None
    step: int | None
    num_steps: int | None
    eta_s: float | None
    metrics: Mapping[str, float]
    """The newest loss, and the newest of dev that are single numbers."""
    num_starts: int
    causes: tuple[str, ...]
    """Why each start but the last has ended."""


@dataclass(frozen=True)
class Found:
    """What a run directory holds."""

    run_dir: Path
    starts: Sequence[Start]
    events: Sequence[Mapping[str, Any]]
    """The first and the newest."""
    finished: bool
    running_here: bool
    """Something without a scheduler has touched its lease just now."""
    submitted_as: str | None
    failure: str | None = None
    """What the ranks of the last start died of, without a scheduler."""
    last_word: str | None = None
    """What Slurm says of a job that is no longer in the queue, though no start of it has said how it ended."""


def status_of(found: Found, job: QueuedJob | None) -> RunStatus:
    """Where a run stands; `job` is the one in the queue that is for it."""
    state, why = _state(found, job)
    steps = [event for event in found.events if event["event"] == "step"]
    starts = [event for event in found.events if event["event"] == "start"]
    dev: Mapping[str, Any] = next(
        (e for e in reversed(found.events) if e["event"] == "eval" and e["split"] == "dev"), {}
    )
    metrics = {"loss": steps[-1]["loss"]} if steps and steps[-1]["loss"] is not None else {}
    metrics |= {f"dev/{name}": value for name, value in dev.items() if isinstance(value, float) and name != "time"}
    return RunStatus(
        run_dir=str(found.run_dir),
        state=state,
        why=why,
        job=job.name if job else found.starts[-1].job if found.starts else found.submitted_as,
        nodes=(job.nodes if job else None) or (found.starts[-1].nodes if found.starts else None),
        step=steps[-1]["step"] if steps else None,
        num_steps=starts[-1]["num_steps"] if starts else None,
        eta_s=steps[-1]["eta_s"] if steps and state == "running" else None,
        metrics=metrics,
        num_starts=len(found.starts),
        causes=tuple(start.cause for start in found.starts if start.cause and start.state == "waiting"),
    )


def _state(found: Found, job: QueuedJob | None) -> tuple[str, str]:
    if job is not None and job.is_running:
        phase = next((e["name"] for e in reversed(found.events) if e["event"] == "phase"), None)
        return (
            "running",
            f"{phase or 'training' if found.starts else 'starting'}, {job.time_left} of the time limit left",
        )
    if job is not None:
        word = "waiting" if found.starts and found.starts[-1].state in ("waiting", "running") else "pending"
        begins = f"; it is to begin at {job.starts_at}" if job.starts_at not in ("N/A", "") else ""
        return word, explain_reason(job.reason) + begins
    if found.finished:
        return "finished", ""
    if found.running_here:
        return "running", "on this machine or another one, without Slurm"
    said = found.last_word or "Slurm has forgotten why"
    if not found.starts and found.submitted_as is None:
        return _without_slurm(found)
    if not found.starts:
        return "lost", f"job {found.submitted_as} has left the queue without having begun ({said})"
    last = found.starts[-1]
    if last.state in ("running", "waiting"):
        if (cause := ENDED_BY_SLURM.get(said.split(",")[0])) is not None:
            return "stopped", cause
        return "lost", f"job {last.job} has left the queue ({said})"
    return last.state, str(last.cause)


def _without_slurm(found: Found) -> tuple[str, str]:
    """Of a run that does not go on, by what it has said itself."""
    if found.failure is not None:
        return "failed", found.failure
    last = next((event for event in reversed(found.events) if event["event"] in ("start", "stopped")), None)
    if last is None:
        return "new", ""
    if last["event"] == "stopped":
        return "stopped", str(last["reason"])
    return "lost", f"it has ended without a word; it goes on with: shardtune run {found.run_dir}"


def render_table(runs: Sequence[RunStatus]) -> str:
    """A line for each run."""
    rows = [("RUN", "STATE", "JOB", "NODES", "STEP", "LEFT", "LOSS", "STARTS", "WHY")]
    for its in runs:
        step = "" if its.step is None else f"{its.step}/{its.num_steps or '?'}"
        left = "" if its.eta_s is None else duration(its.eta_s)
        loss = f"{its.metrics['loss']:.4f}" if "loss" in its.metrics else ""
        place = (Path(its.run_dir).name, its.state, its.job or "", its.nodes or "")
        rows.append((*place, step, left, loss, str(its.num_starts or ""), its.why))
    return render_columns(rows)


def render_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def render_run(its: RunStatus) -> str:
    """All of one run, a line each."""
    before = f", put back after: {', '.join(its.causes)}" if its.causes else ""
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in its.metrics.items())
    lines = {
        "run": its.run_dir,
        "state": f"{its.state}{f': {its.why}' if its.why else ''}",
        "job": its.job and f"{its.job}{f' on {its.nodes}' if its.nodes else ''}",
        "step": None if its.step is None else f"{its.step} of {its.num_steps or '?'}",
        "left": None if its.eta_s is None else duration(its.eta_s),
        "metrics": metrics,
        "starts": f"{its.num_starts}{before}" if its.num_starts else None,
    }
    return "\n".join(f"{name:8} {value}" for name, value in lines.items() if value)


def as_json(its: RunStatus) -> dict[str, Any]:
    """For programs."""
    return asdict(its)
