"""Queries and commands to the Slurm cluster that this machine belongs to."""

import json
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.plan.sweep import SweepPlan, write_sweep
from shardtune.launcher.registry import remember
from shardtune.launcher.slurm.allocation import parse_details
from shardtune.launcher.slurm.lifecycle import STATUS, parse_status
from shardtune.launcher.slurm.submission import SUBMISSION, Submission
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
from shardtune.run_dir.files import write_atomically
from shardtune.run_dir.run import Run, write_run_dir

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
    known = _known_numbers(run_dir)
    candidates = [job for job in jobs if job.comment == str(run_dir) or known & {job.number, job.name}]
    return min(candidates, key=lambda job: not job.is_running, default=None)


def _known_numbers(run_dir: Path) -> set[str]:
    numbers = set()
    if (run_dir / SUBMISSION).is_file():
        numbers.add(json.loads((run_dir / SUBMISSION).read_text(encoding="utf-8"))["job"])
    if (run_dir / STATUS).is_file():
        numbers.add(parse_status((run_dir / STATUS).read_text(encoding="utf-8"))[-1].job)
    return numbers


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
    write_sweep(sweep)
    job = hand_in(submission)
    for number in numbers:
        keep(sweep.points[number].run_dir, f"{job}_{number}")
    return job


def hand_in(submission: Submission) -> str:
    """Writes the job script into the run directory and submits it; returns the job's number."""
    write_atomically(submission.script_path, submission.script)
    return submit_script(submission.script_path, unset=_named(submission))


def submit_script(script: Path, *, unset: Sequence[str] = ()) -> str:
    """Submits the job script of a run directory, ignoring the `unset` options in the environment; returns the job's
    number."""
    result = execute.run_tool(
        ["sbatch", "--parsable", str(script)], environment={f"SBATCH_{name}": None for name in unset}
    )
    if result.exit_code:
        raise LaunchError(explain_refusal(result.errors))
    return parse_submitted(result.output)


def keep(run_dir: Path, job: str) -> None:
    """Records the job that the run was submitted as."""
    record = {"job": job, "submitted": time.time(), "by": sys.argv}
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


def last_word(number: str) -> str | None:
    """The final state of a job that has left the queue, such as NODE_FAIL, with the reason if Slurm gives one; None if
    Slurm no longer knows the job."""
    result = execute.run_tool(["scontrol", "show", "job", "--oneliner", number])
    details = {} if result.exit_code else parse_details(result.output)
    if "JobState" in details:
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
