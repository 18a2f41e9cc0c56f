"""The subcommand for the live page over many runs."""

from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.commands.command import Command

HELP = """\
  shardtune dashboard [ROOT]                a live page over many runs, on 127.0.0.1 (default: those of status)
      --port=N                              the port (default: 8321, or the next free one)
"""


def dashboard(root: str | None = None, port: str | None = None) -> Command:
    """Serves a live page over all runs in a folder, on this machine's own address only. Ctrl-C ends it.

    Args:
        root: a folder with run directories (default: the runs that `shardtune status` lists).
        port: the port to serve on (default: 8321, or the next free one).
    """
    if port is not None and not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ConfigError(f"shardtune: --port takes a number from 1 to 65535, got {port!r}")

    def perform() -> int:
        from shardtune.launcher.dashboard.read.find_runs import check_root
        from shardtune.launcher.dashboard.server import Dashboard, welcome

        folder = check_root(Path(root)) if root is not None else None
        served = Dashboard(folder, int(port) if port is not None else None)
        print(welcome(served, str(folder or "the runs that shardtune status lists")), flush=True)
        served.serve()
        return 0

    return Command(perform)
