"""The state of a run, by the same code as `shardtune status`."""

from dataclasses import replace

from shardtune.launcher.dashboard.read.run import Run
from shardtune.launcher.dashboard.slurm_view import NotAnsweredError, SlurmView
from shardtune.launcher.runs.monitor import look_with
from shardtune.launcher.runs.status import RunStatus
from shardtune.launcher.slurm.lifecycle import STATUS
from shardtune.launcher.slurm.submission import SUBMISSION

STATES = {"pending": "queued", "failed": "crashed", "lost": "crashed"}
"""States of `shardtune status` that have another name on the page."""
UNREADABLE = "unreadable"
NOT_ANSWERED = "Slurm has not answered yet"


def status_of_run(run: Run, slurm: SlurmView) -> RunStatus:
    """The status of a run; that of before if Slurm has to be asked first."""
    with run.lock:
        events, before = run.digest.events(), run.status
    try:
        try:
            job = slurm.job_of(run.path)
        except NotAnsweredError:
            if any((run.path / name).is_file() for name in (SUBMISSION, STATUS)):
                raise
            job = None
        return look_with(run.path, job, events, slurm.last_word)
    except NotAnsweredError:
        return before or replace(_none(run), state="waiting", why=NOT_ANSWERED)
    except OSError as error:
        return replace(_none(run), why=f"{error.filename or run.path} cannot be read: {error.strerror or error}")
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        return replace(_none(run), why=f"a file of the run directory is damaged ({type(error).__name__}: {error})")


def state_name(status: RunStatus) -> str:
    """The state as the page names it."""
    return STATES.get(status.state, status.state)


def _none(run: Run) -> RunStatus:
    return RunStatus(str(run.path), UNREADABLE, "", None, None, None, None, None, {}, 0, ())
