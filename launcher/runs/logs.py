"""What a run has put out: the output of its job, the log of a rank, or without a job its events as lines."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.runs import monitor
from shardtune.launcher.start.follow import Events, first_failure
from shardtune.run_dir.exit_codes import EXIT_RESUME
from shardtune.run_dir.files import failed_rank
from shardtune.run_dir.view.progress import event_line
from shardtune.shell_line import shell_line

POLL_S = 0.5


def print_log(run_dir: Path, rank: str | None, *, follow: bool) -> None:
    """Prints the job's output, a rank's log, or the events of a run without a job; with `follow` until the run ends.

    Raises CheckpointError if the folder is not a run directory, LaunchError if there is no output.
    """
    monitor.look_at(run_dir)
    wanted = monitor.job_outputs(run_dir) if rank is None else [run_dir / "logs" / f"rank-{rank}.log"]
    if not wanted:
        _print_events(run_dir, follow=follow)
        return
    output = next(filter(Path.is_file, wanted), None)
    if output is None:
        raise LaunchError(f"{run_dir}: no output yet ({wanted[0].name} does not exist in its logs)")
    _print_file(run_dir, output, follow=follow)


def _print_file(run_dir: Path, path: Path, *, follow: bool) -> None:
    with path.open(encoding="utf-8", errors="replace") as file:

        def print_new() -> None:
            for line in file:
                print(line, end="", flush=follow)

        _while_it_goes_on(run_dir, print_new, follow=follow)


def _print_events(run_dir: Path, *, follow: bool) -> None:
    """Prints the events of all starts, then why the last one failed, if it did."""
    events = Events(run_dir, since=0.0)
    began, num_lines = 0.0, 0

    def print_new() -> None:
        nonlocal began, num_lines
        for event in events.new():
            began = event["time"] if event["event"] == "start" else began
            if (line := event_line(event)) is not None:
                num_lines += 1
                print(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))}  {line}", flush=follow)

    _while_it_goes_on(run_dir, print_new, follow=follow)
    failure, backend = first_failure(run_dir, began), _text(run_dir / "logs" / "launcher.log")
    if failure is not None and failure["code"] != EXIT_RESUME:
        print(f"{failed_rank(failure)} failed:\n{failure['text'].rstrip()}")
    elif backend and monitor.look_at(run_dir).state not in ("finished", "stopped", *monitor.GOING_ON):
        print(backend)
    elif not num_lines:
        raise LaunchError(
            f"{run_dir}: no output yet; what a rank has put out: {shell_line('logs', run_dir, '--rank=0')}"
        )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").rstrip() if path.is_file() else ""


def _while_it_goes_on(run_dir: Path, print_new: Callable[[], None], *, follow: bool) -> None:
    """Calls the function once, and with `follow` again and again until the run has ended."""
    complain = functools.partial(print, file=sys.stderr)
    going_on = True
    while going_on:
        going_on = follow and monitor.look_patiently(run_dir, complain).state in monitor.GOING_ON
        print_new()
        if going_on:
            time.sleep(POLL_S)
