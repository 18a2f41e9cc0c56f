"""Queries and commands to the Slurm cluster that this machine belongs to."""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shardtune.errors import CheckpointError, LaunchError, ShardtuneError
from shardtune.launcher.plan.sweep import PREFIXES, SweepPlan, write_sweep
from shardtune.launcher.registry import remember
from shardtune.launcher.slurm.allocation import parse_details
from shardtune.launcher.slurm.job_identity import (
    JobIdentity,
    default_recipe,
    is_by_hand,
    started_job,
    submitted_job,
    user_of,
)
from shardtune.launcher.slurm.lifecycle import STATUS, parse_status
from shardtune.launcher.slurm.submission import SUBMISSION, SUBMITTING, Submission
from shardtune.launcher.slurm.text import (
    SINFO_FORMAT,
    SQUEUE_FORMAT,
    Nodes,
    QueuedJob,
    explain_refusal,
    parse_nodes,
    parse_queue,
    parse_submitted,
    parse_test,
)
from shardtune.launcher.start import execute
from shardtune.run_dir.files import LEASE, write_atomically
from shardtune.run_dir.lease import owner_seen_alive, take_lease
from shardtune.run_dir.lease_holder import run_dir_in_use
from shardtune.run_dir.run import Run, find_run, write_run_dir

SUBMITTING_S = 300.0
"""How long a command waits for another one that submits a job of the same run directory."""
NO_SLURM = "Slurm is not available on this machine; use a login node of the cluster, or train here: shardtune run"


def find_nodes() -> list[Nodes] | None:
    """The nodes of the cluster's partitions; None without Slurm. Raises LaunchError if Slurm does not answer."""
    output = _ask("sinfo", "--noheader", "--exact", f"--format={SINFO_FORMAT}")
    return None if output is None else parse_nodes(output)


def queued_jobs() -> list[QueuedJob]:
    """The user's jobs that are waiting or running; none without Slurm. Raises LaunchError if Slurm does not answer."""
    output = _ask("squeue", "--me", "--noheader", "--array", f"--format={SQUEUE_FORMAT}")
    return [] if output is None else parse_queue(output)


def job_of(run_dir: Path, jobs: list[QueuedJob]) -> QueuedJob | None:
    """The job among these that trains, or will train, this run, preferably a running one; None if there is none."""
    known = known_jobs(run_dir)
    candidates = [job for job in jobs if _is_named_after(run_dir, job) or _is_known(job, known)]
    return min(candidates, key=lambda job: not job.is_running, default=None)


def job_by_hand(run_dir: Path, jobs: list[QueuedJob]) -> QueuedJob | None:
    """The job among these that waits, and was submitted by hand (`sbatch slurm/finetune.sh …`) for this run."""
    waiting = {job.name: job for job in jobs if not job.is_running}
    output = _ask("squeue", "--me", "--noheader", "--array", "--format=%i|%Z|%o") if waiting else None
    for line in (output or "").splitlines():
        name, work_dir, command = line.split("|", 2)
        if name in waiting and _trains(command, Path(work_dir), run_dir):
            return waiting[name]
    return None


def _trains(command: str, work_dir: Path, run_dir: Path) -> bool:
    if is_by_hand(command, work_dir, run_dir):
        return True
    named = default_recipe(command)
    if named is None or work_dir != Path.cwd():
        return False
    try:
        return find_run(Path(named[0]), named[1], None).run_dir == run_dir
    except ShardtuneError:
        return False


def refuse_queued(run_dir: Path) -> None:
    """Raises LaunchError if a job of this run is in the queue."""
    jobs = queued_jobs()
    job = job_of(run_dir, jobs) or job_by_hand(run_dir, jobs)
    if job is not None:
        raise LaunchError(
            f"job {job.name} is already in the queue for {run_dir} ({job.state}); "
            f"to remove it: shardtune stop {run_dir}"
        )


def known_jobs(run_dir: Path) -> list[JobIdentity]:
    """The job that the run was submitted as, and that of its last start."""
    known = []
    if (run_dir / SUBMISSION).is_file():
        known.append(submitted_job(json.loads((run_dir / SUBMISSION).read_text(encoding="utf-8"))))
    if (run_dir / STATUS).is_file():
        known.append(started_job(parse_status((run_dir / STATUS).read_text(encoding="utf-8"))[-1]))
    return known


def _is_named_after(run_dir: Path, job: QueuedJob) -> bool:
    """Whether the comment that `submit` and `sweep` give a job names this run."""
    named = Path(job.comment)
    if named.name == run_dir.name and job.comment:
        return named == run_dir or named.resolve() == run_dir.resolve()  # by another link
    task = job.name.rpartition("_")[2]
    return named == run_dir.parent and run_dir.name in [f"{prefix}{task}" for prefix in PREFIXES.values()]


def _is_known(job: QueuedJob, known: Sequence[JobIdentity]) -> bool:
    return any(
        identity.job in (job.number, job.name) and _is_same(identity, _details(identity.job)) for identity in known
    )


def _is_same(identity: JobIdentity, details: dict[str, str] | None) -> bool:
    """Whether the job with these details, which has its number now, is the one that was recorded."""
    return details is not None and identity.is_same(details, cluster_name() if identity.cluster else None)


def cluster_name() -> str | None:
    """The name of this machine's cluster; None if Slurm does not tell."""
    result = execute.run_tool(["scontrol", "show", "config"])
    match = re.search(r"^ClusterName\s*=\s*(\S+)", result.output, flags=re.MULTILINE)
    return match.group(1) if match and not result.exit_code else None


def _details(number: str) -> dict[str, str] | None:
    result = execute.run_tool(["scontrol", "show", "job", "--oneliner", number])
    details = {} if result.exit_code else parse_details(result.output)
    return details if "JobState" in details else None


@contextmanager
def submitting(run_dir: Path) -> Iterator[None]:
    """Lets one command at a time look at the queue and submit a job of this run directory.

    Raises LaunchError if another one takes too long, CheckpointError if a start that is not in the queue owns the run.
    """
    if (holder := owner_seen_alive(run_dir / LEASE)) is not None:
        raise run_dir_in_use(holder, run_dir / LEASE)
    try:
        lock = take_lease(run_dir / SUBMITTING, patience_s=SUBMITTING_S)
    except CheckpointError:
        raise LaunchError(f"another command is submitting a job for {run_dir}; try again later") from None
    try:
        yield
    finally:
        lock.close()


def try_submission(submission: Submission) -> str | None:
    """When and where the job would start, if Slurm reports it. Raises LaunchError if Slurm would refuse the job."""
    for number in re.findall(r":(\d+)", submission.depends or ""):
        if last_word(number) is None:  # Slurm (22.05) would accept the job, and start it at once
            raise LaunchError(f"--depends: Slurm knows no job {number}; see `squeue` for your jobs")
    environment = {f"SBATCH_{name}": None for name in _named(submission)}
    result = execute.run_tool(["sbatch", "--test-only"], stdin=submission.script, environment=environment)
    if result.exit_code:
        raise LaunchError(explain_refusal(result.errors))
    return parse_test(result.errors + result.output)


def submit(submission: Submission) -> str:
    """Writes the run directory and submits the job; returns its number. Raises LaunchError if Slurm refuses it."""
    job = submit_preparation(submission)
    keep(submission.run_dir, job)
    remember(submission.run_dir)
    return job


def submit_preparation(submission: Submission) -> str:
    """Submits a job that prepares the data, without recording it as the run's job; returns its number."""
    write_run_dir(Run(submission.recipe, submission.run_dir, submission.recipe_path))
    return hand_in(submission)


def submit_sweep(sweep: SweepPlan, numbers: Sequence[int], submission: Submission) -> str:
    """Writes the directories of the sweep and submits a job array for these points; returns its number.

    Raises LaunchError if Slurm refuses it.
    """
    write_sweep(sweep, numbers)
    job = hand_in(submission)
    for number in numbers:
        keep(sweep.point(number).run_dir, f"{job}_{number}")
    return job


def hand_in(submission: Submission) -> str:
    """Writes the job script into the run directory and submits it; returns the job's number."""
    write_atomically(submission.script_path, submission.script)
    environment = {f"SBATCH_{name}": None for name in _named(submission)}
    # Not the file, which others may be able to replace meanwhile; it is there to be looked at.
    result = execute.run_tool(["sbatch", "--parsable"], stdin=submission.script, environment=environment)
    if result.exit_code:
        raise LaunchError(explain_refusal(result.errors))
    return parse_submitted(result.output)


def keep(run_dir: Path, job: str) -> None:
    """Records the job that the run was submitted as, and what tells it from another one of the same number."""
    details = _details(job) or {}
    record = {
        "job": job,
        "cluster": cluster_name(),
        "user": user_of(details),
        "submit_time": details.get("SubmitTime"),
        "submitted": time.time(),
        "by": sys.argv,
    }
    write_atomically(run_dir / SUBMISSION, json.dumps(record, indent=1, ensure_ascii=False))


def usable_nodes(partition: str) -> set[str] | None:
    """The names of the partition's nodes that are not down; None if Slurm does not answer."""
    states = "idle,allocated,mixed,completing"
    result = execute.run_tool(
        ["sinfo", "--noheader", "--Node", f"--partition={partition}", f"--states={states}", "--format=%N"]
    )
    return None if result.exit_code else set(result.output.split())


def silent_nodes(nodes: Sequence[str]) -> set[str]:
    """Those of these nodes that are down or do not answer Slurm; none if Slurm itself does not answer."""
    result = execute.run_tool(
        ["sinfo", "--noheader", "--Node", f"--nodes={','.join(nodes)}", "--states=down,no_respond", "--format=%N"]
    )
    return set() if result.exit_code else set(result.output.split())


def cancel(job: QueuedJob) -> None:
    """Ends a job, or removes it from the queue."""
    cancel_job(job.name)


def cancel_job(name: str) -> None:
    """Ends a job, or removes it from the queue, by its name, such as 12 or 12_3."""
    _tell("scancel", name)


def warn(job: QueuedJob) -> None:
    """Sends a job the signal of its time limit: it saves a checkpoint and requeues itself."""
    _tell("scancel", "--batch", "--signal=USR1", job.name)


def last_word(number: str, identity: JobIdentity | None = None) -> str | None:
    """The final state of a job that has left the queue, such as NODE_FAIL, with the reason if Slurm gives one; None if
    Slurm no longer knows the job, or another one than `identity` has the number by now."""
    details = _details(number)
    if details is not None:
        if identity is not None and not _is_same(identity, details):
            return None
        reason = details.get("Reason", "None")
        if reason == "NonZeroExitCode":
            reason = f"exit code {details.get('ExitCode', '?').split(':')[0]}"
        return details["JobState"] + ("" if reason == "None" else f", {reason}")
    result = execute.run_tool(
        ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={number}"]
    )
    return result.output.split()[0] if not result.exit_code and result.output.strip() else None


def _ask(*words: str) -> str | None:
    result = execute.run_tool(words)
    if not result.exit_code:
        return result.output
    # The tools may be installed without a cluster; they then report that they find no configuration.
    if result.exit_code == execute.NOT_FOUND or "configuration" in result.errors:
        return None
    raise LaunchError(f"Slurm does not answer; try again later ({result.errors.strip()})")


def _tell(*words: str) -> None:
    result = execute.run_tool(words)
    if result.exit_code:
        raise LaunchError(f"{' '.join(words)}: {result.errors.strip()}")


def _named(submission: Submission) -> list[str]:
    """sbatch's environment variables for the options in the script, which they would override."""
    other = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE"}
    names = [option.removeprefix("--").split("=")[0] for option in submission.options]
    return [other.get(name, name.upper().replace("-", "_")) for name in names]
