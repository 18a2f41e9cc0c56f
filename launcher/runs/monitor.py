"""Looks at runs wherever they are trained: status, progress; and asks them to stop or to requeue."""

import json
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from shardtune.errors import CheckpointError, LaunchError
from shardtune.launcher.plan.sweep import point_dirs
from shardtune.launcher.registry import known
from shardtune.launcher.runs.early_end import early_end
from shardtune.launcher.runs.plain_lines import PlainLines
from shardtune.launcher.runs.status import RunEvidence, RunStatus, short_names, status_of
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.job_identity import JobIdentity, started_job, submitted_job
from shardtune.launcher.slurm.lifecycle import STATUS, STOP_REQUEST, Start, parse_status
from shardtune.launcher.slurm.submission import JOB_SCRIPT, SUBMISSION, plan_submission
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.launcher.start.follow import Events, first_failure, outer_events
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import (
    CONFIG,
    LEASE,
    absolute,
    already_finished,
    is_finished,
    write_atomically,
)
from shardtune.run_dir.lease_holder import read_holder
from shardtune.run_dir.links import refuse_links
from shardtune.run_dir.stop_file import ask_to_stop
from shardtune.run_dir.trust import settle_trust
from shardtune.run_dir.view.progress import Progress
from shardtune.shell_line import shell_line
from shardtune.users import own_name

POLL_S = 2.0
PATIENCE_S = 20.0
"""Seconds until `watch` asks a Slurm again that has not answered."""
LEASE_FRESH_S = 60.0
GOING_ON = ("running", "pending", "waiting")


def look_at(run_dir: Path, jobs: list[QueuedJob] | None = None, *, event_bytes: int = 2**16) -> RunStatus:
    """The status of a run, by the first and the last `event_bytes` of its metrics.jsonl.

    Raises CheckpointError for a folder that is not a run directory.
    """
    run_dir = absolute(run_dir)
    refuse_other_folders(run_dir)
    job = cluster.job_of(run_dir, cluster.queued_jobs() if jobs is None else jobs)
    return look_with(run_dir, job, outer_events(run_dir, event_bytes), cluster.last_word)


def look_with(
    run_dir: Path,
    job: QueuedJob | None,
    events: Sequence[Mapping[str, Any]],
    last_word: Callable[[str, JobIdentity], str | None],
) -> RunStatus:
    """The status of a run with this job in the queue and these events, the first and the newest ones.

    `last_word` says what Slurm reports about a job that has left the queue (cluster.last_word).
    """
    starts, submitted = _starts(run_dir), _submitted(run_dir)
    unbegun = _unbegun(run_dir, starts, submitted.job if submitted else None)
    is_requeued = bool(starts) and unbegun is not None and unbegun[0] == starts[-1].job
    # The job of a start that never began, or did not record how it ended.
    unended = started_job(starts[-1]) if starts and starts[-1].state in ("running", "waiting") else None
    missing = submitted if unbegun is not None and not is_requeued else unended
    reported = last_word(missing.job, missing) if job is None and missing else None
    began = max((event["time"] for event in events if event["event"] == "start"), default=0.0)
    seen = RunEvidence(
        run_dir=run_dir,
        starts=starts,
        events=events,
        finished=is_finished(run_dir),
        running_here=_is_held(run_dir, ended_job=missing.job if missing and reported else None),
        submitted_as=submitted.job if submitted else None,
        failure=_failure(run_dir, began),
        early_end=early_end(*unbegun, reported, is_requeued=is_requeued) if job is None and unbegun else None,
        last_word=reported,
        cancelled_by=_cancelled_by(run_dir, since=max(began, starts[-1].began if starts else 0.0)),
    )
    return status_of(seen, job)


def refuse_other_folders(run_dir: Path) -> None:
    """Raises CheckpointError for a folder that is not a run directory."""
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(f"{run_dir}: not a run directory (no {CONFIG})")


def known_runs() -> list[RunStatus]:
    """The status of all known runs, by path."""
    jobs = cluster.queued_jobs()
    statuses = (_look_if_there(folder, jobs) for folder in known_run_dirs(jobs))
    return [status for status in statuses if status is not None]


def known_run_dirs(jobs: Sequence[QueuedJob]) -> list[Path]:
    """All runs in runs/, in the register of this machine and of the user's jobs in the queue, by path."""
    folders = {path.parent.absolute() for depth in ("*", "*/*") for path in Path("runs").glob(f"{depth}/{CONFIG}")}
    folders |= {*known()}
    folders |= {Path(job.comment) for job in jobs if (Path(job.comment) / CONFIG).is_file() and job.comment}
    # One line for each, by whatever links it was reached; a job in the queue knows it by the name that it was given.
    named = {folder.resolve(): folder for folder in sorted(folders, reverse=True)}
    return sorted(named.values())


def _look_if_there(run_dir: Path, jobs: list[QueuedJob]) -> RunStatus | None:
    """The status of a run; None if its directory has been removed meanwhile."""
    try:
        return look_at(run_dir, jobs)
    except (CheckpointError, FileNotFoundError):
        if (run_dir / CONFIG).is_file():
            raise
        return None


def look_at_sweep(sweep_dir: Path) -> list[RunStatus]:
    """The status of all points of a sweep, in order."""
    jobs = cluster.queued_jobs()
    return [look_at(run_dir, jobs) for run_dir in point_dirs(sweep_dir) if (run_dir / CONFIG).is_file()]


def watch(*run_dirs: Path, is_plain: bool = False) -> int:
    """Shows the progress of runs until all have ended; returns the exit code that matches how they ended.

    That of a single run is a bar on a terminal; with `is_plain`, and of several runs, it is lines.
    """
    names = short_names(run_dirs) if len(run_dirs) > 1 else [""]
    streams: list[TextIO] = [PlainLines(sys.stderr, name) if is_plain or name else sys.stderr for name in names]
    followed = [_Followed(run_dir, stream) for run_dir, stream in zip(run_dirs, streams, strict=True)]
    try:
        going_on = followed
        while going_on := [run for run in going_on if run.show_new()]:
            time.sleep(POLL_S)
    finally:
        for run in followed:
            run.progress.close()
    for run in followed:
        print(run.ending())
    return exit_code([run.state for run in followed])


def exit_code(states: Collection[str]) -> int:
    """What `watch` exits with when it is left while the runs are in these states: 0 if all have finished, 130 if one
    is going on, as after Ctrl-C, 75 if one was stopped and none has failed."""
    if any(state in GOING_ON for state in states):
        return EXIT_INTERRUPTED
    if all(state == "finished" for state in states):
        return EXIT_OK
    return EXIT_RESUME if all(state in ("finished", "stopped") for state in states) else EXIT_BUG


class _Followed:
    """A run whose progress is shown."""

    def __init__(self, run_dir: Path, terminal: TextIO) -> None:
        self._run_dir = run_dir
        self._events = Events(run_dir, time.time())
        self._status: RunStatus | None = None
        self._shown = ""
        self.progress = Progress(terminal)

    @property
    def state(self) -> str:
        return self._status.state if self._status else ""

    def show_new(self) -> bool:
        """Shows what is new; returns whether the run is going on."""
        if self._status is not None and self.state not in GOING_ON:
            return False
        if self._status is None and _is_held(self._run_dir, ended_job=None):
            _show_where_it_is(self._run_dir, self.progress)
        self._status = status = look_patiently(self._run_dir, self.progress.say)
        for event in self._events.new():
            self.progress.show(event)
        waiting = f"job {status.job} is {status.state}: {status.why}" if status.state in ("pending", "waiting") else ""
        if waiting and waiting != self._shown:
            self.progress.say(waiting)
            self._shown = waiting
        return self.state in GOING_ON

    def ending(self) -> str:
        """How the run ended, in a line."""
        why = self._status.why if self._status else ""
        return f"{_shortest(self._run_dir)}: {self.state}{f' ({why})' if why else ''}"


def _shortest(path: Path) -> Path:
    """The path as a user in the working directory would write it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _show_where_it_is(run_dir: Path, progress: Progress) -> None:
    """Shows how many steps a run in progress has, and the newest one."""
    events = outer_events(run_dir)
    for kind in ("start", "step"):
        if (newest := next((event for event in reversed(events) if event["event"] == kind), None)) is not None:
            progress.show(newest)


def stop(run_dir: Path, *, now: bool) -> str:
    """Asks a run to stop; returns a sentence about what will happen."""
    run_dir = absolute(run_dir)
    status, job = look_at(run_dir), _job(run_dir)
    request = {"by": own_name(), "time": time.time()}
    if job is not None and (now or not job.is_running):
        cluster.cancel(job)
        write_atomically(run_dir / STOP_REQUEST, json.dumps({**request, "cancelled": job.name}))
        return f"job {job.name} is cancelled"
    if now:
        raise LaunchError(
            f"{run_dir}: no Slurm job is training it; end its process with Ctrl-C, or stop it without --now"
        )
    if status.state != "running":
        raise LaunchError(f"{run_dir} is not being trained: {status.state}{f' ({status.why})' if status.why else ''}")
    refuse_links(run_dir)
    write_atomically(run_dir / STOP_REQUEST, json.dumps(request))
    ask_to_stop(run_dir, f"shardtune stop, by {request['by']}")
    return f"{run_dir} will save a checkpoint after the current step and stop"


def requeue(run_dir: Path, *, is_trusted: bool = False) -> str:
    """Requeues a run; returns a sentence about what will happen.

    A job that has ended is submitted again with a script that is rendered from the run's recipe, because others may
    have changed the one in the run directory. Raises LaunchError if that is not possible.
    """
    status, job = look_at(run_dir), _job(run_dir)
    if job is not None and job.is_running:
        cluster.warn(job)
        return f"job {job.name} will save a checkpoint and be requeued"
    if job is not None:
        raise LaunchError(f"job {job.name} is already in the queue: {status.why}")
    if status.state == "finished":
        raise LaunchError(already_finished(run_dir))
    if not (run_dir / JOB_SCRIPT).is_file():
        raise LaunchError(f"{run_dir} has no job script ({JOB_SCRIPT}); to submit it: {shell_line('submit', run_dir)}")
    submission = plan_submission(run_dir, (), None, cluster.find_nodes())
    settle_trust(submission.run, (), is_trusted=is_trusted)
    with cluster.submitting(absolute(run_dir)):
        cluster.refuse_queued(absolute(run_dir))  # another command may have submitted one meanwhile
        number = cluster.submit(submission)
    return f"job {number} is in the queue for {run_dir}"


def look_patiently(run_dir: Path, say: Callable[[str], None]) -> RunStatus:
    """The status of a run, as soon as Slurm answers."""
    while True:
        try:
            return look_at(run_dir)
        except LaunchError as error:  # Slurm's controller is restarting or overloaded
            say(str(error))
            time.sleep(PATIENCE_S)


def _job(run_dir: Path) -> QueuedJob | None:
    jobs = cluster.queued_jobs()
    return cluster.job_of(absolute(run_dir), jobs) or cluster.job_by_hand(absolute(run_dir), jobs)


def _starts(run_dir: Path) -> list[Start]:
    path = run_dir / STATUS
    return parse_status(path.read_text(encoding="utf-8")) if path.is_file() else []


def _submitted(run_dir: Path) -> JobIdentity | None:
    path = run_dir / SUBMISSION
    return submitted_job(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _cancelled_by(run_dir: Path, *, since: float) -> str | None:
    """Who had `shardtune stop` cancel the run's job since then; None if nobody has."""
    path = run_dir / STOP_REQUEST
    request = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return str(request["by"]) if request.get("cancelled") and request["time"] > since else None


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


def _is_held(run_dir: Path, *, ended_job: str | None) -> bool:
    """Whether a start has touched its lease just now, and is neither known to be dead nor this job, which has ended."""
    holder = read_holder(run_dir / LEASE)
    if holder is None or holder.is_dead() or (ended_job is not None and holder.job == ended_job):
        return False
    try:
        return time.time() - (run_dir / LEASE).stat().st_mtime < LEASE_FRESH_S
    except FileNotFoundError:
        return False


def job_outputs(run_dir: Path) -> list[Path]:
    """Where the output of the run's jobs is or will be, the newest first; empty if it has had no job."""
    outputs = [Path(start.output) for start in reversed(_starts(run_dir)) if start.output]
    submitted = _submitted(run_dir)
    return outputs if submitted is None else [*outputs, run_dir / "logs" / f"slurm-{submitted.job}.out"]
