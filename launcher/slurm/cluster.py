"""What is asked of the Slurm that this machine belongs to, and told it."""

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

NO_SLURM = "no Slurm answers on this machine; go to a login node of the cluster, or train here: shardtune run"


def find_nodes() -> list[Nodes] | None:
    """What the cluster's partitions have; None where there is no Slurm. Raises LaunchError if it does not answer."""
    said = _ask("sinfo", "--noheader", "--exact", f"--format={SINFO_FORMAT}")
    return None if said is None else parse_nodes(said)


def queued_jobs() -> list[QueuedJob]:
    """The user's jobs that are waiting or running; none where there is no Slurm. Raises LaunchError if it does not
    answer."""
    said = _ask("squeue", "--me", "--noheader", "--array", f"--format={SQUEUE_FORMAT}")
    return [] if said is None else parse_queue(said)


def job_of(run_dir: Path, jobs: list[QueuedJob]) -> QueuedJob | None:
    """The job among them that trains, or will train, this run; a running one first."""
    known = _known_numbers(run_dir)
    found = [job for job in jobs if job.comment == str(run_dir) or known & {job.number, job.name}]
    return min(found, key=lambda job: not job.is_running, default=None)


def _known_numbers(run_dir: Path) -> set[str]:
    numbers = set()
    if (run_dir / SUBMISSION).is_file():
        numbers.add(json.loads((run_dir / SUBMISSION).read_text(encoding="utf-8"))["job"])
    if (run_dir / STATUS).is_file():
        numbers.add(parse_status((run_dir / STATUS).read_text(encoding="utf-8"))[-1].job)
    return numbers


def try_submission(submission: Submission) -> str | None:
    """When and where it would start, if Slurm says so. Raises LaunchError if Slurm would refuse it."""
    for number in re.findall(r":(\d+)", submission.depends or ""):
        if last_word(number) is None:  # Slurm (22.05) would take the job, and start it at once
            raise LaunchError(f"--depends: Slurm knows no job {number}")
    environment = {f"SBATCH_{name}": None for name in _named(submission)}
    said = execute.run_tool(["sbatch", "--test-only"], stdin=submission.script, environment=environment)
    if said.exit_code:
        raise LaunchError(explain_refusal(said.errors))
    return parse_test(said.errors + said.output)


def submit(submission: Submission) -> str:
    """Writes the run directory and hands the job in; its number. Raises LaunchError if Slurm refuses it."""
    job = submit_preparation(submission)
    keep(submission.run_dir, job)
    remember(submission.run_dir)
    return job


def submit_preparation(submission: Submission) -> str:
    """The same for a job that is not the one that trains."""
    write_run_dir(Run(submission.recipe, submission.run_dir, submission.recipe_path))
    return hand_in(submission)


def submit_sweep(sweep: SweepPlan, numbers: Sequence[int], submission: Submission) -> str:
    """Writes the directories of these points and hands their array in; its number. Raises LaunchError if Slurm refuses
    it."""
    write_sweep(sweep)
    job = hand_in(submission)
    for number in numbers:
        keep(sweep.points[number].run_dir, f"{job}_{number}")
    return job


def hand_in(submission: Submission) -> str:
    """Writes the job's script into its run directory and gives it to sbatch; the job's number."""
    write_atomically(submission.script_path, submission.script)
    return submit_script(submission.script_path, unset=_named(submission))


def submit_script(script: Path, *, unset: Sequence[str] = ()) -> str:
    """Gives a script that is frozen in a run directory to sbatch; the job's number."""
    said = execute.run_tool(
        ["sbatch", "--parsable", str(script)], environment={f"SBATCH_{name}": None for name in unset}
    )
    if said.exit_code:
        raise LaunchError(explain_refusal(said.errors))
    return parse_submitted(said.output)


def keep(run_dir: Path, job: str) -> None:
    """Writes down which job the run was handed in as."""
    record = {"job": job, "submitted": time.time(), "by": sys.argv}
    write_atomically(run_dir / SUBMISSION, json.dumps(record, indent=1, ensure_ascii=False))


def usable_nodes(partition: str) -> set[str] | None:
    """The names of its nodes that are not down; None if nobody says."""
    states = "idle,allocated,mixed,completing"
    said = execute.run_tool(
        ["sinfo", "--noheader", "--Node", f"--partition={partition}", f"--states={states}", "--format=%N"]
    )
    return None if said.exit_code else set(said.output.split())


def cancel(job: QueuedJob) -> None:
    """Ends a job, or takes it from the queue."""
    cancel_job(job.name)


def cancel_job(name: str) -> None:
    """The same by the job's name, such as 12 or 12_3."""
    _tell("scancel", name)


def warn(job: QueuedJob) -> None:
    """Sends a job the signal that its time limit would: it saves a checkpoint and goes back into the queue."""
    _tell("scancel", "--batch", "--signal=USR1", job.name)


def last_word(number: str) -> str | None:
    """What Slurm says of a job that has left the queue, such as NODE_FAIL, and why if it does; None if it has forgotten
    it."""
    said = execute.run_tool(["scontrol", "show", "job", "--oneliner", number])
    details = {} if said.exit_code else parse_details(said.output)
    if "JobState" in details:
        reason = details.get("Reason", "None")
        return details["JobState"] + ("" if reason == "None" else f", {reason}")
    said = execute.run_tool(
        ["sacct", "--noheader", "--allocations", "--parsable2", "--format=State", f"--jobs={number}"]
    )
    return said.output.split()[0] if not said.exit_code and said.output.strip() else None


def _ask(*words: str) -> str | None:
    said = execute.run_tool(words)
    if not said.exit_code:
        return said.output
    # The tools may be installed where no cluster is: they then say that they find no configuration.
    if said.exit_code == execute.NOT_FOUND or "configuration" in said.errors:
        return None
    raise LaunchError(f"Slurm does not answer now; try again later ({said.errors.strip()})")


def _tell(*words: str) -> None:
    said = execute.run_tool(words)
    if said.exit_code:
        raise LaunchError(f"{' '.join(words)}: {said.errors.strip()}")


def _named(submission: Submission) -> list[str]:
    """sbatch's variables for what the script says: they would go before it."""
    other = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE"}
    names = [option.removeprefix("--").split("=")[0] for option in submission.options]
    return [other.get(name, name.upper().replace("-", "_")) for name in names]
