"""Ranks that hang in the first start of a run; as a program in the trainer's stead.

`HANG="load 1" python -m tests.support.hang RUN_DIR …` is `python -m shardtune.trainer`, of which rank 1 waits for
ever as it loads the model; with `_train 0 1` both are suspended as the training begins.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from shardtune.trainer import run


def wait_for_ever() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # in C


def hang_once(moment: str, ranks: list[str], run_dir: Path) -> None:
    """Lets these ranks hang where shardtune.trainer.run calls this function of its, and leave their process's number
    behind."""
    function = getattr(run, moment)

    def hung(*args: Any, **words: Any) -> Any:
        rank = os.environ["RANK"]
        left = run_dir / f"hung-{rank}"
        if rank in ranks and not left.exists():
            left.write_text(str(os.getpid()))
            wait_for_ever() if moment == "load" else os.kill(os.getpid(), signal.SIGSTOP)
        return function(*args, **words)

    setattr(run, moment, hung)


if __name__ == "__main__":
    from shardtune.trainer.__main__ import main

    moment, *ranks = os.environ["HANG"].split()
    hang_once(moment, ranks, Path(sys.argv[1]))
    sys.exit(main())
