"""Looks at runs wherever they are trained: status, progress, logs; and asks them to stop or to requeue."""

import functools
import getpass
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shardtune.errors import CheckpointError, LaunchError
from shardtune.launcher.registry import known
from shardtune.launcher.runs.early_end import early_end
from shardtune.launcher.runs.status import RunEvidence, RunStatus, status_of
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.lifecycle import STATUS, STOP_REQUEST, Start, parse_status
from shardtune.launcher.slurm.submission import JOB_SCRIPT, SUBMISSION
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.launcher.start.follow import Events, first_failure, outer_events
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import CONFIG, LEASE, RESULTS, STOP, already_finished, write_atomically
from shardtune.run_dir.progress import Progress

POLL_S = 2.0
PATIENCE_S = 20.0
"""Seconds until `watch` asks a Slurm again that has not answered."""
LEASE_FRESH_S = 60.0
GOING_ON = ("running", "pending", "waiting")


def look_at(run_dir: Path, jobs: list[QueuedJob] | None = None) -> RunStatus:
    """The status of a run. Raises CheckpointError for a folder that is not a run directory."""
    run_dir = run_dir.absolute()
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(f"{run_dir}: not a run directory (no {CONFIG})")
    job = cluster.job_of(run_dir, cluster.queued_jobs() if jobs is None else jobs)
    starts, submitted_as = _starts(run_dir), _submitted_as(run_dir)
    unbegun = _unbegun(run_dir, starts, submitted_as)
    # The job of a start that never began, or did not record how it ended.
    unended = starts[-1].job if starts and starts[-1].state in ("running", "waiting") else None
    missing = unbegun[0] if unbegun else unended
    last_word = cluster.last_word(missing) if job is None and missing else None
    is_requeued = bool(starts) and unbegun is not None and unbegun[0] == starts[-1].job
    events = outer_events(run_dir)
    seen = RunEvidence(
        run_dir=run_dir,
        starts=starts,
        events=events,
        finished=(run_dir / RESULTS).exists(),
        running_here=_lease_is_fresh(run_dir),
        submitted_as=submitted_as,
        failure=_failure(run_dir, max((event["time"] for event in events if event["event"] == "start"), default=0.0)),
        early_end=early_end(*unbegun, last_word, is_requeued=is_requeued) if job is None and unbegun else None,
        last_word=last_word,
    )
    return status_of(seen, job)


def known_runs() -> list[RunStatus]:
    """The status of all runs in runs/, in the register of this machine and of the user's jobs in the queue, by path."""
    jobs = cluster.queued_jobs()
    folders = {path.parent.absolute() for depth in ("*", "*/*") for path in Path("runs").glob(f"{depth}/{CONFIG}")}
    folders |= {*known()}
    folders |= {Path(job.comment) for job in jobs if (Path(job.comment) / CONFIG).is_file() and job.comment}
    return [look_at(folder, jobs) for folder in sorted(folders)]


def watch(run_dir: Path) -> int:
    """Shows the progress of a run until it ends; returns the exit code that matches how it ended."""
    events = Events(run_dir, time.time())
    progress = Progress(sys.stderr)
    shown = ""
    try:
        while True:
            status = _look_patiently(run_dir, progress.say)
            for event in events.new():
                progress.show(event)
            waiting = (
                f"job {status.job} is {status.state}: {status.why}" if status.state in ("pending", "waiting") else ""
            )
            if waiting and waiting != shown:
                progress.say(shown := waiting)
            if status.state not in GOING_ON:
                break
            time.sleep(POLL_S)
    finally:
        progress.close()
    print(f"{run_dir}: {status.state}{f' ({status.why})' if status.why else ''}")
    return {"finished": EXIT_OK, "stopped": EXIT_RESUME}.get(status.state, EXIT_BUG)


def print_log(run_dir: Path, rank: str | None, *, follow: bool) -> None:
    """Prints the job's output, or a rank's log; with `follow` until the run ends."""
    path = _log_path(run_dir, rank)
    complain = functools.partial(print, file=sys.stderr)
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            going_on = follow and _look_patiently(run_dir, complain).state in GOING_ON
            for line in file:
                print(line, end="", flush=follow)
            if not going_on:
                return
            time.sleep(POLL_S / 4)


def stop(run_dir: Path, *, now: bool) -> str:
    """Asks a run to stop; returns a sentence about what will happen."""
    status, job = look_at(run_dir), _job(run_dir)
    if job is not None and (now or not job.is_running):
        cluster.cancel(job)
        return f"job {job.name} is cancelled"
    if now:
        raise LaunchError(
            f"{run_dir}: no Slurm job is training it; end its process with Ctrl-C, or stop it without --now"
        )
    if status.state != "running":
        raise LaunchError(f"{run_dir} is not being trained: {status.state}{f' ({status.why})' if status.why else ''}")
    request = {"by": getpass.getuser(), "time": time.time()}
    write_atomically(run_dir / STOP_REQUEST, json.dumps(request))
    (run_dir / STOP).touch()
    return f"{run_dir} will save a checkpoint after the current step and stop"


def requeue(run_dir: Path) -> str:
    """Requeues a run; returns a sentence about what will happen."""
    status, job = look_at(run_dir), _job(run_dir)
    if job is not None and job.is_running:
        cluster.warn(job)
        return f"job {job.name} will save a checkpoint and be requeued"
    if job is not None:
        raise LaunchError(f"job {job.name} is already in the queue: {status.why}")
    if status.state == "finished":
        raise LaunchError(already_finished(run_dir))
    if not (run_dir / JOB_SCRIPT).is_file():
        raise LaunchError(f"{run_dir} has no job script ({JOB_SCRIPT}); to submit it: shardtune submit {run_dir}")
    number = cluster.submit_script(run_dir.absolute() / JOB_SCRIPT)
    cluster.keep(run_dir, number)
    return f"job {number} is in the queue for {run_dir}"


def _look_patiently(run_dir: Path, say: Callable[[str], None]) -> RunStatus:
    while True:
        try:
            return look_at(run_dir)
        except LaunchError as error:  # Slurm's controller is restarting or overloaded
            say(str(error))
            time.sleep(PATIENCE_S)


def _job(run_dir: Path) -> QueuedJob | None:
    return cluster.job_of(run_dir.absolute(), cluster.queued_jobs())


def _starts(run_dir: Path) -> list[Start]:
    path = run_dir / STATUS
    return parse_status(path.read_text(encoding="utf-8")) if path.is_file() else []


def _submitted_as(run_dir: Path) -> str | None:
    path = run_dir / SUBMISSION
    return str(json.loads(path.read_text(encoding="utf-8"))["job"]) if path.is_file() else None


def _unbegun(run_dir: Path, starts: list[Start], submitted_as: str | None) -> tuple[str, Path] | None:
    """The run's newest job and its output, if no start has begun since it was submitted or requeued."""
    last = starts[-1] if starts else None
    if submitted_as is not None and (last is None or last.job != submitted_as):
        submitted = json.loads((run_dir / SUBMISSION).read_text(encoding="utf-8"))["submitted"]
        if last is None or submitted > last.began:
            return submitted_as, run_dir / "logs" / f"slurm-{submitted_as}.out"
    if last is not None and last.state == "waiting" and last.output is not None:
        return last.job, Path(last.output)
    return None


def _failure(run_dir: Path, since: float) -> str | None:
    """Why the ranks have failed since then, in one line; None if they did not, or were asked to stop."""
    failure = first_failure(run_dir, since)
    if failure is None or failure["code"] == EXIT_RESUME:
        return None
    lines = str(failure["text"]).strip().splitlines() or [""]
    return lines[0] if failure["code"] == EXIT_USER else lines[-1]


def _lease_is_fresh(run_dir: Path) -> bool:
    try:
        return time.time() - (run_dir / LEASE).stat().st_mtime < LEASE_FRESH_S
    except FileNotFoundError:
        return False


def _log_path(run_dir: Path, rank: str | None) -> Path:
    if rank is not None:
        wanted = [run_dir / "logs" / f"rank-{rank}.log"]
    else:
        outputs = [Path(start.output) for start in reversed(_starts(run_dir)) if start.output]
        wanted = [*outputs, run_dir / "logs" / f"slurm-{_submitted_as(run_dir)}.out", run_dir / "logs" / "launcher.log"]
    path = next((path for path in wanted if path.is_file()), None)
    if path is None:
        raise LaunchError(f"{run_dir}: no output yet ({wanted[0].name} does not exist in its logs)")
    return path
