"""The edge of a rank's process: its arguments, its log file, its exit code.

`python -m shardtune.trainer RECIPE_OR_RUN_DIR [key=value …]`, under torchrun, deepspeed, srun or alone.
"""

from shardtune.safe_path import leave_out_working_directory

if __name__ == "__main__":
    leave_out_working_directory()

import argparse
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from shardtune.errors import BadNodesError, LaunchError, ShardtuneError, StartAnewError, TakenOverError
from shardtune.recipe.fault_policy import FaultsConfig
from shardtune.run_dir.exit_codes import EXIT_ANEW, EXIT_BUG, EXIT_ELSEWHERE, EXIT_OK, EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import RESULTS, STOP, failure_path
from shardtune.run_dir.run import Run, find_run, refuse_other_data, write_run_dir
from shardtune.trainer.distributed.rank_env import global_rank, world_size
from shardtune.trainer.distributed.stop import Stop, StopAsked, signals_ask_to_stop
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs this rank; returns its exit code."""
    edge = _Process(_parse(sys.argv[1:] if argv is None else argv), sys.stderr)
    with signals_ask_to_stop(when_stuck=lambda asked: os._exit(_leave(asked, edge))) as stop:
        return _main(edge, stop)


@dataclass
class _Process:
    """What is known by the time that something fails."""

    arguments: argparse.Namespace
    terminal: TextIO
    run_dir: Path | None = None
    started: float = field(default_factory=time.time)


def _main(edge: _Process, stop: Stop) -> int:
    arguments = edge.arguments
    try:
        its = find_run(arguments.path, arguments.overrides, arguments.run_dir, arguments.fork)
        edge.run_dir = its.run_dir
        write_run_dir(its)
        if arguments.prepare:
            _prepare(its, arguments.prepare, stop)
            return EXIT_OK
        return _train(its, edge, stop)
    except (StopAsked, Exception) as error:
        stop.note_only()
        return _leave(error, edge)


def _leave(error: BaseException, edge: _Process) -> int:
    """Says and writes down what this rank died of; its exit code."""
    code, text = _verdict(error)
    print(text, file=sys.stderr, flush=True)
    run_dir = edge.run_dir
    if isinstance(error, TakenOverError):
        shown = True  # and nothing written: the run directory's files are another start's by now
    else:
        is_of_ranks = not edge.arguments.prepare
        shown = run_dir is not None and is_of_ranks and _is_first_failure(run_dir, code, text, edge.started)
    if shown:
        print(text, file=edge.terminal, flush=True)
        if code == EXIT_RESUME and run_dir is not None:
            (run_dir / STOP).unlink(missing_ok=True)
    return code


def _prepare(its: Run, num_ranks: int, stop: Stop) -> None:
    """Prepares the data of a run ahead of its ranks."""
    stop.watch(its.run_dir / STOP, its.recipe.faults.stop_after_minutes)
    with stop.postponed():
        from shardtune.run_dir.progress import PreparationProgress
        from shardtune.trainer.data.prepare.prepare import prepare

    prepared = prepare(
        its.recipe,
        num_ranks=num_ranks,
        say=lambda text: print(text, file=sys.stderr),
        progress=PreparationProgress(sys.stderr),
    )
    refuse_other_data(its.run_dir, prepared.folder.name)


def _train(its: Run, edge: _Process, stop: Stop) -> int:
    """Runs this rank of a training; returns its exit code."""
    recipe, run_dir, arguments = its.recipe, its.run_dir, edge.arguments
    edge.terminal = terminal = _keep_log(run_dir, global_rank())
    drop_deprecation_warnings()
    # One rank looks for the file, for a file server is asked by all jobs; the others learn it from that one.
    stop.watch(run_dir / STOP if global_rank() == 0 else None, recipe.faults.stop_after_minutes)
    with stop.postponed():
        from shardtune.trainer.data.prepare.prepare import prepare
        from shardtune.trainer.distributed.ranks import connect, disconnect
        from shardtune.trainer.distributed.watchdog import watching
        from shardtune.trainer.run import run

    if arguments.ranks is not None and world_size() != arguments.ranks:
        raise LaunchError(
            f"there are {world_size()} ranks, but {arguments.ranks} were to be started; has a node started a world "
            "of its own? Its part of the log says which address it waited for"
        )
    # Before the ranks meet: no collective's time-out runs while one of them tokenizes.
    prepared = prepare(recipe, num_ranks=world_size())
    refuse_other_data(run_dir, prepared.folder.name)
    if (run_dir / RESULTS).exists():
        if global_rank() == 0:
            print(f"{run_dir} has come to its end already; its results are in {RESULTS}", file=terminal)
        return EXIT_OK
    with watching(run_dir, global_rank(), recipe.faults.startup_hang_s, joining=True):
        ranks = connect(arguments.device or recipe.job.device, timeout=_patience(recipe.faults))
    watched = None if arguments.followed else terminal
    ended = run(recipe, run_dir, prepared, ranks, stop, terminal=watched, job=arguments.job)
    ranks.barrier()  # one that left with EXIT_RESUME before rank zero has sent its last lines would have it killed
    disconnect()
    if ranks.is_zero and not arguments.followed:
        print(f"{'finished' if ended else 'stopped; start it again to go on'}: {run_dir}", file=terminal)
    return EXIT_OK if ended else EXIT_RESUME


def _verdict(error: BaseException) -> tuple[int, str]:
    """The exit code, and what there is to say."""
    if isinstance(error, StopAsked):
        return EXIT_RESUME, f"stopped by {error} before there was anything to save; start it again to go on"
    if isinstance(error, StartAnewError):
        return EXIT_ANEW, str(error)
    if isinstance(error, BadNodesError):
        return EXIT_ELSEWHERE, str(error)
    if isinstance(error, ShardtuneError):
        return EXIT_USER, str(error)
    return EXIT_BUG, "".join(traceback.format_exception(error))


def _patience(faults: FaultsConfig) -> timedelta:
    """How long a collective waits: a little longer than the watchdog, which is the one that knows what hangs."""
    if not faults.hang_s or not faults.startup_hang_s:
        return timedelta(days=365)
    return timedelta(seconds=max(faults.hang_s, faults.startup_hang_s) + 60)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m shardtune.trainer", description=__doc__)
    parser.add_argument("path", type=Path, help="a recipe, or the directory of a run to go on with")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="keys of the recipe, such as optim.lr=2e-5")
    parser.add_argument("--run-dir", type=Path, help="where everything of this run goes")
    parser.add_argument(
        "--fork", type=Path, help="a new run directory, to begin from the newest checkpoint of that one"
    )
    parser.add_argument("--prepare", type=int, metavar="RANKS", help="only prepare the data, for so many ranks")
    parser.add_argument("--ranks", type=int, help="how many ranks there have to be, on all machines")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="what whoever starts the ranks has found for them")
    parser.add_argument("--job", help="the scheduler's name of the job")
    parser.add_argument("--followed", action="store_true", help="somebody else shows the progress")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # DeepSpeed's launcher passes it
    return parser.parse_intermixed_args(argv)


def _keep_log(run_dir: Path, rank: int) -> TextIO:
    """Sends all that this process prints to its log file; returns the terminal it had."""
    terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")
    failure_path(run_dir, rank).unlink(missing_ok=True)
    with (run_dir / "logs" / f"rank-{rank}.log").open("a", encoding="utf-8") as log:
        log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S')} {socket.gethostname()} pid {os.getpid()}\n")
        log.flush()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    return terminal


def _is_first_failure(run_dir: Path, code: int, text: str, started: float) -> bool:
    """Writes down what this rank died of; whether no other rank of this start has done so before."""
    others = [
        path
        for path in failure_path(run_dir, "*").parent.glob("rank-*.failure.json")
        if path.stat().st_mtime >= started
    ]
    failure = {"rank": global_rank(), "host": socket.gethostname(), "time": time.time(), "code": code, "text": text}
    failure_path(run_dir, global_rank()).write_text(json.dumps(failure), encoding="utf-8")
    return not others


if __name__ == "__main__":
    sys.exit(main())
