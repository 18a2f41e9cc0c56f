"""Which job a number stands for: a controller that was set up anew counts from 1 again. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shardtune.launcher.slurm.allocation import parse_time

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
