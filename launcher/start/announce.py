"""Says the plan of a run before it starts, and keeps it in the run directory."""

import time
from collections.abc import Callable
from pathlib import Path

from shardtune.launcher.plan.job import JobPlan
from shardtune.launcher.plan.outlook import Outlook, outlook_of
from shardtune.run_dir.files import is_finished
from shardtune.run_dir.view.plan_file import write_plan


def announce_plan(plan: JobPlan, say: Callable[[str], None]) -> None:
    """Says whether the job fits, when it ends and what it takes, unless the run is finished; stops nothing."""
    if not is_finished(plan.run_dir):
        announce(outlook_of(plan, now=time.time()), plan.run_dir, say)


def announce(outlook: Outlook, run_dir: Path, say: Callable[[str], None]) -> None:
    """Says the lines and writes plan.json."""
    for line in outlook.lines:
        say(line)
    if outlook.record is None:
        return
    try:
        write_plan(run_dir, outlook.record)
    except OSError as error:  # a full disk is reported by what needs the room
        say(f"plan: not kept for a comparison: {error.strerror}")
