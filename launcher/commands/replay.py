"""The subcommand that sends the events of a run to another experiment tracker."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from shardtune.counted import counted
from shardtune.errors import CheckpointError, ConfigError, LaunchError, ShardtuneError
from shardtune.launcher.commands.command import Command

if TYPE_CHECKING:
    from shardtune.recipe.schema import Recipe
    from shardtune.run_dir.trackers.tracker import Tracker

HELP = """\
  shardtune replay RUN_DIR --to=TRACKER     send a run's metrics to tensorboard, mlflow, trackio or swanlab
"""


def replay(
    run_dir: str,
    to: str | None = None,
    project: str | None = None,
    name: str | None = None,
    out: str | None = None,
    uri: str | None = None,
) -> Command:
    """Sends the metrics of a run, finished or not, to another experiment tracker; again, only what is new.

    Args:
        run_dir: a run directory.
        to: tensorboard, mlflow, trackio or swanlab.
        project: the project, or MLflow's experiment (default: report.project of the recipe, or shardtune).
        name: the name of the run (default: report.name of the recipe, or the name of the run directory).
        out: the folder (default: tensorboard or swanlog in the run directory; for mlflow, mlruns beside it).
        uri: the address of MLflow's server (default: MLFLOW_TRACKING_URI, or else the folder).
    """

    def perform() -> int:
        from shardtune.run_dir.files import METRICS
        from shardtune.run_dir.links import refuse_links
        from shardtune.run_dir.run import read_config
        from shardtune.run_dir.trackers import TRACKERS, refuse_missing
        from shardtune.run_dir.trackers.replay import Replay
        from shardtune.run_dir.trackers.tracker import Target, facts_of

        if to not in TRACKERS:
            found = "is missing" if to is None else f"got {to!r}"
            raise ConfigError(f"shardtune: replay: --to {found}; choose from {', '.join(TRACKERS)}")
        _refuse_useless(to, TRACKERS[to], {"project": project, "name": name, "out": out, "uri": uri})
        folder = Path(run_dir)
        recipe = read_config(folder)
        if not (folder / METRICS).is_file():
            raise CheckpointError(f"{run_dir} has no {METRICS}: the run has not begun")
        refuse_missing([to], f"--to={to}")
        refuse_links(folder)
        _refuse_while_it_reports(to, folder, recipe)
        facts = facts_of(recipe, folder, project=project, name=name)
        with _explained(to):
            tracker = TRACKERS[to](facts, Target(None if out is None else Path(out), uri))
            with closing(Replay(facts.run_dir, to, tracker, print)) as sender:
                number = sender.catch_up()
        sent = counted(number, "record") if number else "nothing new"
        print(f"{to}: {sent}; run {sender.run} in {tracker.place}")
        if sender.num_skipped:
            print(f"{METRICS}: {counted(sender.num_skipped, 'line')} that cannot be read skipped")
        return 0

    return Command(perform)


def _refuse_useless(to: str, tracker: "type[Tracker]", given: dict[str, str | None]) -> None:
    """Raises ConfigError for a flag that the tracker has no use for."""
    for flag, value in given.items():
        if value is not None and flag not in tracker.flags:
            legal = ", ".join(f"--{name}" for name in given if name in tracker.flags)
            raise ConfigError(f"shardtune: replay: --{flag} does not apply to {to}, which takes {legal}")
    if given["out"] is not None and given["uri"] is not None:
        raise ConfigError("shardtune: replay: --out and --uri both say where to; give one of them")


def _refuse_while_it_reports(to: str, run_dir: Path, recipe: "Recipe") -> None:
    """Raises LaunchError while the run itself sends its events to this tracker."""
    from shardtune.run_dir.files import LEASE
    from shardtune.run_dir.lease import owner_seen_alive

    if to in recipe.report.also and owner_seen_alive(run_dir / LEASE) is not None:
        raise LaunchError(
            f"{run_dir} is training, and reports to {to} itself (report.also); replay it when it has ended"
        )


@contextmanager
def _explained(to: str) -> Iterator[None]:
    """Turns what the tracker's library raises into a LaunchError: it is not ours, and may raise anything."""
    try:
        yield
    except ShardtuneError:
        raise
    except Exception as error:
        raise LaunchError(f"{to}: {type(error).__name__}: {' '.join(str(error).split())}") from error
