"""Which runs `shardtune watch` shows, and whether the terminal can show them as more than lines."""

import locale
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from shardtune.launcher.plan.sweep import SWEEP, point_dirs
from shardtune.launcher.runs import monitor
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.text import QueuedJob
from shardtune.run_dir.files import CONFIG, absolute

NO_RUNS = "no runs in runs/, no runs started on this machine, and no jobs of yours in the queue"


NONE_GOING_ON = "no run is going on; all runs: shardtune status"


def is_full_terminal() -> bool:
    """Whether input and output are a terminal that can place text anywhere."""
    return all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)) and not is_dumb_terminal()


def is_dumb_terminal() -> bool:
    """Whether output goes to a terminal that only adds lines (TERM=dumb)."""
    return Console(file=sys.stderr).is_dumb_terminal


def given_run_dirs(paths: Sequence[Path]) -> list[Path]:
    """The run directories that are given, each once; a sweep's directory stands for its points.

    Raises CheckpointError for a folder that is neither.
    """
    found: dict[Path, None] = {}
    for path in map(absolute, paths):
        if (path / SWEEP).is_file():
            found |= dict.fromkeys(point for point in point_dirs(path) if (point / CONFIG).is_file())
        else:
            monitor.refuse_other_folders(path)
            found[path] = None
    return list(found)


def going_on() -> list[Path]:
    """The known runs that are going on."""
    return [Path(run.run_dir) for run in monitor.known_runs() if run.state in monitor.GOING_ON]


def has_known_runs() -> bool:
    """Whether there is any run to show."""
    return bool(monitor.known_run_dirs(cluster.queued_jobs()))


def open_terminal(run_dirs: Sequence[Path], *, no_color: bool) -> int:
    """Shows the runs in the terminal until the user quits; without any, all known ones. Returns the exit code."""
    from shardtune.launcher.runs.terminal.app import WatchApp
    from shardtune.launcher.runs.terminal.poller import Poller

    def find(jobs: Sequence[QueuedJob]) -> list[Path]:
        return list(run_dirs) if run_dirs else monitor.known_run_dirs(jobs)

    # Python's own UTF-8 mode says nothing of what the terminal shows.
    is_ascii = locale.getencoding().upper().replace("-", "") not in ("UTF8", "GB18030")
    app = WatchApp(Poller(find, is_fixed=bool(run_dirs)), no_color=no_color, is_ascii=is_ascii)
    app.run()
    if app.return_code:  # it has failed, and said how
        return app.return_code
    return app.exit_code if run_dirs else 0
