"""A run directory -> its run in W&B, later: from metrics.jsonl, which has the events of all starts in their order.

Not from wandb's own offline files: there is one for each start, they lack what a killed start had not flushed, and keep
steps that were done again.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.run_dir.files import read_events
from shardtune.run_dir.run import read_config
from shardtune.trainer.reporting.wandb_run.choice import choose_wandb
from shardtune.trainer.reporting.wandb_run.config import config_of
from shardtune.trainer.reporting.wandb_run.feed import Feed
from shardtune.trainer.reporting.wandb_run.session import UPLOAD_S, behind_path, open_session, server_fault, wandb_id


@dataclass(frozen=True)
class Uploaded:
    """What was passed on."""

    num_rows: int
    """Rows of the history that W&B had not got."""
    where: str
    """The run, in words."""


def upload(run_dir: Path, *, mode: str = "online") -> Uploaded:
    """Passes all events of a run on to W&B; `offline` writes them to RUN_DIR/wandb instead, as `wandb sync` takes them.

    Raises CheckpointError if this is no run directory, LaunchError if W&B cannot be reached.
    """
    recipe = read_config(run_dir)
    choice = replace(choose_wandb(recipe, run_dir), mode=mode, why="shardtune sync")
    events = read_events(run_dir)
    if not events:
        raise LaunchError(f"{run_dir}: nothing to upload yet; its metrics.jsonl has no event")
    if mode == "online" and (fault := server_fault(choice.server)) is not None:
        raise LaunchError(f"W&B: {fault}; nothing was uploaded. Check WANDB_BASE_URL, and run this again")
    session = open_session(run_dir, choice, config_of(recipe, run_dir), finish_s=UPLOAD_S)
    if session.mode != mode:
        session.finish()
        raise LaunchError(
            "W&B: the run could not be created there; nothing was uploaded. See the message above, check WANDB_API_KEY "
            "and report.entity, and run this again"
        )
    feed = Feed(recipe, run_dir)
    are_new = [feed.pass_on(session, event["event"], event, alerts=False) for event in events]
    try:
        session.finish(failed=feed.ended is None)
    except TimeoutError:
        raise LaunchError("W&B: the server stopped answering; run this again to upload the rest") from None
    behind_path(run_dir).unlink(missing_ok=True)
    where = f"{choice.entity + '/' if choice.entity else ''}{choice.project}, run {choice.name} ({wandb_id(run_dir)})"
    return Uploaded(sum(are_new), where)
