"""The status of runs, from their directories and the queue, and its rendering as text. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shardtune.launcher.slurm.lifecycle import Cause, Start
from shardtune.launcher.slurm.text import QueuedJob, explain_reason
from shardtune.run_dir.quality.retention import RetentionSet, retention_line, retention_sets
from shardtune.run_dir.view.step_line import duration
from shardtune.run_dir.view.time_use import TimeUse
from shardtune.run_dir.view.waterfall import render_line
from shardtune.shell_line import shell_line

ENDED_BY_SLURM: dict[str, Cause] = {
    "CANCELLED": "scancel", "TIMEOUT": "time limit", "NODE_FAIL": "node failure", "PREEMPTED": "preemption",
}  # fmt: skip
"""Slurm's state of a job -> why its last start ended, if it had no time to record that itself."""

_OF_SWEEP = re.compile(r"(seed-|part-)?\d+")
"""The name of a point's directory, in that of the sweep."""


@dataclass(frozen=True)
class RunStatus:
    """The status of one run."""

    run_dir: str
    state: str
    """running, pending, waiting (requeued), stopped, failed, finished, new, or lost."""
    why: str
    """The reason for the state, in plain words."""
    job: str | None
    nodes: str | None
    step: int | None
    num_steps: int | None
    eta_s: float | None
    metrics: Mapping[str, float]
    """The newest training loss, and the newest dev metrics that are single numbers."""
    num_starts: int
    causes: tuple[str, ...]
    """Why each start after which the job was requeued ended."""
    restarts: tuple[str, ...] = ()
    """Why each start after which the ranks were restarted within the job ended."""
    retention: tuple[RetentionSet, ...] = ()
    """How the model does on rows of other skills: in the end, or by the first and the newest evaluations."""


@dataclass(frozen=True)
class RunEvidence:
    """The content of a run directory that its status follows from."""

    run_dir: Path
    starts: Sequence[Start]
    events: Sequence[Mapping[str, Any]]
    """The first and the newest events."""
    finished: bool
    running_here: bool
    """Whether a process without a scheduler has touched its lease just now."""
    submitted_as: str | None
    failure: str | None = None
    """Why the ranks of the last start failed, without a scheduler."""
    early_end: str | None = None
    """How its newest job ended, if that began and recorded no start."""
    last_word: str | None = None
    """What Slurm reports about a job that has left the queue although none of its starts recorded how it ended."""
    cancelled_by: str | None = None
    """The user whose `shardtune stop` cancelled its job, if no start has begun since."""


def status_of(seen: RunEvidence, job: QueuedJob | None) -> RunStatus:
    """The status of a run; `job` is its job in the queue."""
    state, why = _state(seen, job)
    steps = [event for event in seen.events if event["event"] == "step"]
    starts = [event for event in seen.events if event["event"] == "start"]
    dev: Mapping[str, Any] = next(
        (e for e in reversed(seen.events) if e["event"] == "eval" and e["split"] == "dev"), {}
    )
    done = next((event for event in reversed(seen.events) if event["event"] == "done"), None)
    metrics = {"loss": steps[-1]["loss"]} if steps and steps[-1]["loss"] is not None else {}
    metrics |= {f"dev/{name}": value for name, value in dev.items() if isinstance(value, float) and name != "time"}
    return RunStatus(
        run_dir=str(seen.run_dir),
        state=state,
        why=why,
        job=job.name if job else seen.starts[-1].job if seen.starts else seen.submitted_as,
        nodes=(job.nodes if job else None) or (seen.starts[-1].nodes if seen.starts else None),
        step=steps[-1]["step"] if steps else None,
        num_steps=starts[-1]["num_steps"] if starts else None,
        eta_s=steps[-1]["eta_s"] if steps and state == "running" else None,
        metrics=metrics,
        num_starts=len(seen.starts),
        causes=tuple(start.cause for start in seen.starts if start.cause and start.state == "waiting"),
        restarts=tuple(start.cause for start in seen.starts if start.cause and start.state == "restarting"),
        retention=tuple(retention_sets(seen.events, done)),
    )


def _state(seen: RunEvidence, job: QueuedJob | None) -> tuple[str, str]:
    if job is not None and job.is_running:
        return "running", f"{_doing(seen)}, {job.time_left} of the time limit left"
    if job is not None:
        word = "waiting" if seen.starts and seen.starts[-1].state in ("waiting", "running") else "pending"
        expected = f"; expected to start at {job.starts_at}" if job.starts_at not in ("N/A", "") else ""
        return word, explain_reason(job.reason) + expected
    if seen.finished:
        return "finished", ""
    if seen.running_here:
        return "running", "on this machine or another one, without Slurm"
    if seen.cancelled_by is not None:
        return "stopped", f"cancelled as {seen.cancelled_by} asked"
    if seen.early_end is not None:
        return "failed", seen.early_end
    reported = seen.last_word or "Slurm no longer knows why"
    if not seen.starts and seen.submitted_as is None:
        return _without_slurm(seen)
    if not seen.starts:
        return "lost", f"job {seen.submitted_as} left the queue without starting ({reported})"
    last = seen.starts[-1]
    if last.state in ("running", "waiting"):
        if (cause := ENDED_BY_SLURM.get(reported.split(",")[0])) is not None:
            return "stopped", cause
        return "lost", f"job {last.job} left the queue ({reported})"
    return last.state, str(last.cause)


def _doing(seen: RunEvidence) -> str:
    """What a running job does."""
    if not seen.starts:
        return "starting"
    last = seen.starts[-1]
    if last.attempt and not any(event.get("time", 0.0) > last.began for event in seen.events):
        return f"restarting the ranks on {last.nodes} after: {seen.starts[-2].cause}"
    return next((e["name"] for e in reversed(seen.events) if e["event"] == "phase"), None) or "training"


def _without_slurm(seen: RunEvidence) -> tuple[str, str]:
    """The state of a run that is not being trained, as recorded in its directory, and the reason."""
    if seen.failure is not None:
        return "failed", seen.failure
    last = next((event for event in reversed(seen.events) if event["event"] in ("start", "stopped")), None)
    if last is None:
        return "new", ""
    if last["event"] == "stopped":
        return "stopped", str(last["reason"])
    return "lost", f"its process ended without recording why; to resume: {shell_line('run', seen.run_dir)}"


def render_table(runs: Sequence[RunStatus]) -> str:
    """A table with a line for each run."""
    rows = [("RUN", "STATE", "JOB", "NODES", "STEP", "LEFT", "LOSS", "STARTS", "WHY")]
    for run, name in zip(runs, short_names([Path(run.run_dir) for run in runs]), strict=True):
        step = "" if run.step is None else f"{run.step}/{run.num_steps or '?'}"
        left = "" if run.eta_s is None else duration(run.eta_s)
        loss = f"{run.metrics['loss']:.4f}" if "loss" in run.metrics else ""
        place = (name, run.state, run.job or "", run.nodes or "")
        rows.append((*place, step, left, loss, str(run.num_starts or ""), run.why))
    return render_columns(rows)


def short_names(paths: Sequence[Path]) -> list[str]:
    """The end of each path that tells it from the others: its name, for the point of a sweep with that of the sweep,
    and more if another path ends in the same way."""

    def end(path: Path, length: int) -> str:
        return str(Path(*path.parts[-length:]))

    names = []
    for path in paths:
        length = 2 if _OF_SWEEP.fullmatch(path.name) else 1
        others = {other for other in paths if other != path}
        while length < len(path.parts) and any(end(other, length) == end(path, length) for other in others):
            length += 1
        names.append(end(path, length))
    return names


def render_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def render_run(run: RunStatus, use: TimeUse | None = None) -> str:
    """The whole status of one run, a line for each item; `use` is what its time went to, if it is to be shown."""
    before = f", requeued after: {', '.join(run.causes)}" if run.causes else ""
    before += f", restarted within the job after: {', '.join(run.restarts)}" if run.restarts else ""
    metrics = "  ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
    lines = {
        "run": run.run_dir,
        "state": f"{run.state}{f': {run.why}' if run.why else ''}",
        "job": run.job and f"{run.job}{f' on {run.nodes}' if run.nodes else ''}",
        "step": None if run.step is None else f"{run.step} of {run.num_steps or '?'}",
        "left": None if run.eta_s is None else duration(run.eta_s),
        "metrics": metrics,
        "retains": retention_line(run.retention),
        "time": render_line(use) if use is not None else None,
        "starts": f"{run.num_starts}{before}" if run.num_starts else None,
    }
    return "\n".join(f"{name:8} {value}" for name, value in lines.items() if value)


def as_json(run: RunStatus, use: TimeUse | None = None) -> dict[str, Any]:
    """The status as a JSON object, for programs; with what the run's time went to, if that is given."""
    return asdict(run) | ({"goodput": use.goodput, "time_s": dict(use.seconds)} if use is not None else {})
