"""Which job a number stands for: a controller that was set up anew counts from 1 again. Pure."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.launcher.slurm.allocation import parse_time
from shardtune.launcher.slurm.lifecycle import Start

CLOCKS_DIFFER_S = 600.0
"""By how much the clock of the controller may be ahead of that of the machine that recorded a job."""


@dataclass(frozen=True)
class JobIdentity:
    """A job as a run directory has recorded it. None: an earlier version of shardtune did not record that."""

    job: str
    """Its id, such as 12, or 12_3 for an array task."""
    cluster: str | None
    user: str | None
    submitted: str | None
    """When it was submitted, or requeued, as Slurm writes times."""
    restarts: int
    """How often Slurm had requeued it then."""
    recorded: float
    """When it was recorded, in seconds since the epoch: it had been submitted by then."""

    def is_same(self, details: Mapping[str, str], cluster: str | None) -> bool:
        """Whether the job that Slurm has under this number, with these fields of `scontrol show job`, is this one."""
        if self.cluster and cluster and self.cluster != cluster:
            return False
        if self.user and user_of(details) not in (None, self.user):
            return False
        submitted = details.get("SubmitTime")
        if submitted is None or submitted == self.submitted:
            return True
        # Slurm sets the time anew when it requeues a job, and counts that.
        if int(details.get("Restarts") or 0) > self.restarts:
            return True
        moment = parse_time(submitted)
        return self.submitted is None and moment is not None and moment <= self.recorded + CLOCKS_DIFFER_S


def user_of(details: Mapping[str, str]) -> str | None:
    """`UserId=ada(1000)` -> ada."""
    return re.sub(r"\(\d+\)$", "", details.get("UserId", "")) or None


def submitted_job(record: Mapping[str, Any]) -> JobIdentity:
    """The job of a submission.json."""
    return JobIdentity(
        str(record["job"]),
        record.get("cluster"),
        record.get("user"),
        record.get("submit_time"),
        0,
        float(record["submitted"]),
    )


def started_job(start: Start) -> JobIdentity:
    """The job of a start in a status.json."""
    return JobIdentity(start.job, start.cluster, start.user, start.submitted, start.restart, start.began)


def is_by_hand(command: str, work_dir: Path, run_dir: Path) -> bool:
    """Whether a job with this command, `…/slurm/finetune.sh RECIPE_OR_RUN_DIR …`, names this run directory.

    Slurm joins the words of a command by spaces and does not quote them.
    """
    _, script, arguments = command.partition("/slurm/finetune.sh ")
    return bool(script) and any(_absolute(path, work_dir) == run_dir for path in _paths(arguments))


def default_recipe(command: str) -> tuple[str, list[str]] | None:
    """The recipe and the overrides of such a command, if it names no run directory."""
    _, script, arguments = command.partition("/slurm/finetune.sh ")
    words = arguments.split(" ")
    if not script or "--run-dir" in arguments or not words[0]:
        return None
    return words[0], [word for word in words[1:] if "=" in word and not word.startswith("-")]


def _paths(arguments: str) -> Iterator[str]:
    """The texts of the arguments that may be one path: its words may be torn apart at spaces."""
    _, flag, named = arguments.partition("--run-dir")
    words = (named[1:] if flag else arguments).split(" ")
    yield from (" ".join(words[:end]) for end in range(1, len(words) + 1))


def _absolute(path: str, folder: Path) -> Path:
    return Path(os.path.normpath(folder / path))
