"""What commands have in common whose rows are shared by several ranks: how these are told, and what they tell at the
end.

With --prepare=FOLDER one process only reads the rows into the folder, and its errors are on the terminal; with
--prepared=FOLDER the ranks, under torchrun, work on these, and leave there what the launcher has to say.
"""

import argparse
import json
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from shardtune.errors import ShardtuneError, system_fault
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_INTERRUPTED, EXIT_OK, EXIT_USER
from shardtune.run_dir.files import SAID, failure_path
from shardtune.trainer.distributed.rank_env import global_rank
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings

PATIENCE = timedelta(days=365)
"""Ranks wait for each other for any time: answers to some rows take much longer than those to others."""


def add_rank_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments by which the launcher says on what, and on which rows, a rank works."""
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to compute on")
    parser.add_argument("--split-model", action="store_true", help="divide the model over all GPUs of this machine")
    parser.add_argument("--prepare", type=Path, help="only read the rows, into this folder")
    parser.add_argument("--prepared", type=Path, help="the folder in which the rows are prepared")


def say_at_end(text: str, prepared: Path | None) -> None:
    """Says a line on the terminal; a rank's stderr is a log file, so the launcher says it for rank 0."""
    if prepared is None:
        print(text, file=sys.stderr)
    else:
        with (prepared / SAID).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")


def carry_out(
    work: Callable[[argparse.Namespace], None],
    arguments: argparse.Namespace,
    folder: Path | None,
    *,
    where: str | None = None,
) -> int:
    """Does the work of a command, or of one rank of it; returns its exit code.

    Why a rank fails is left in the folder, where the launcher looks. `where` is the file of which a fault of the system
    is said that names none.
    """
    drop_deprecation_warnings()
    try:
        work(arguments)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:
        return end(error, folder, where)
    return EXIT_OK


def end(error: BaseException, prepared: Path | None, where: str | None = None) -> int:
    """Prints why this process ends, or records it in the folder, where the launcher looks; returns the exit code.

    `where` is the file of which a fault of the system is said that names none.
    """
    fault = system_fault(error, where) if isinstance(error, OSError) else None
    if isinstance(error, KeyboardInterrupt):
        code, text = EXIT_INTERRUPTED, "stopped"
    elif isinstance(error, ShardtuneError) or fault is not None:
        code, text = EXIT_USER, fault or str(error)
    else:
        code, text = EXIT_BUG, "".join(traceback.format_exception(error))
    print(text, file=sys.stderr)
    if prepared is not None:
        failure = {"rank": global_rank(), "host": socket.gethostname(), "time": time.time(), "code": code, "text": text}
        failure_path(prepared, global_rank()).write_text(json.dumps(failure), encoding="utf-8")
    return code
