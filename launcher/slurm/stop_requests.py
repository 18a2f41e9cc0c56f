"""Which stop requests in a run directory are meant for a start of a job, and which for an earlier one."""

from collections.abc import Sequence
from pathlib import Path

from shardtune.launcher.slurm.allocation import Allocation
from shardtune.launcher.slurm.lifecycle import STOP_REQUEST, Start
from shardtune.run_dir.files import STOP
from shardtune.run_dir.stop_file import read_stop_request

USR1_DETAILS = "logs/slurm-usr1.txt"
"""The output of scontrol when Slurm's signal arrived, for which the batch shell asks the ranks to stop."""


def first_submission(starts: Sequence[Start], allocation: Allocation) -> str | None:
    """When the job of this start was submitted, as Slurm writes times: it forgets that when it requeues a job."""
    earlier = next((start for start in reversed(starts) if start.job == allocation.job), None)
    if allocation.restart and earlier is not None and earlier.first_submitted is not None:
        return earlier.first_submitted
    return allocation.details.get("SubmitTime")


def clear_requests(run_dir: Path, *, submitted: float) -> None:
    """Removes the requests of an earlier start to its own ranks, and those from before this job was submitted.

    What a user asked for while the job waited stays.
    """
    (run_dir / USR1_DETAILS).unlink(missing_ok=True)
    request = read_stop_request(run_dir / STOP)
    for path in (run_dir / STOP, run_dir / STOP_REQUEST):
        is_of_a_start = path.name == STOP and request is not None and request.start is not None
        if path.exists() and (is_of_a_start or path.stat().st_mtime < submitted):
            path.unlink(missing_ok=True)


def is_asked_to_stop(run_dir: Path) -> bool:
    """Whether a user, and not a start for its own ranks, asked the run to stop."""
    request = read_stop_request(run_dir / STOP)
    return (run_dir / STOP_REQUEST).exists() or (request is not None and request.start is None)


def fulfil_requests(run_dir: Path) -> None:
    """Removes the requests of a user once the run has stopped."""
    for name in (STOP, STOP_REQUEST):
        (run_dir / name).unlink(missing_ok=True)
