"""The words of torchrun and of deepspeed on one machine: what they are called with, what they say of a dead rank."""

import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Backend:
    """A program that starts the ranks."""

    argv: Callable[[int, Sequence[str]], tuple[str, ...]]
    """(ranks, module and its arguments) -> command line."""
    parse_exits: Callable[[str], dict[int, int]]
    """What it printed -> exit code (negative: a signal) of each local rank that it says has failed, in its order;
    -SIGTERM for those that it ended itself."""


def _torchrun_argv(num_ranks: int, module: Sequence[str]) -> tuple[str, ...]:
    # --standalone: a rendezvous on a port of its own, so that several runs share a machine.
    return (
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={num_ranks}",
        "-m",
        *module,
    )


def _deepspeed_argv(num_ranks: int, module: Sequence[str]) -> tuple[str, ...]:
    # Port 0 is not understood here; one derived from the run directory keeps two runs on one machine apart.
    port = 20_000 + sum(map(ord, "".join(module))) % 10_000
    runner = (sys.executable, "-m", "deepspeed.launcher.runner", f"--num_gpus={num_ranks}", f"--master_port={port}")
    return (*runner, "--module", *module)


def _torchrun_exits(text: str) -> dict[int, int]:
    # In the line of a log for the first to fail, in a table at the end for all.
    found = re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)", text)
    table = re.findall(r"local_rank: (\d+)\).*?\n\s*exitcode\s*: (-?\d+) \(pid: (\d+)", text)
    found += [(code, rank, pid) for rank, code, pid in table]
    # A rank that does not heed its SIGTERM is killed half a minute later: it has not failed either.
    ended_by_it = set(re.findall(r"Unable to shutdown process (\d+) via", text))
    return {int(rank): -signal.SIGTERM if pid in ended_by_it else int(code) for code, rank, pid in found}


def _deepspeed_exits(text: str) -> dict[int, int]:
    found = re.findall(r"--local_rank=(\d+)[^\n]* exits with return code = (-?\d+)", text)
    return {int(rank): int(code) for rank, code in found}


BACKENDS: dict[str, Backend] = {
    "torchrun": Backend(_torchrun_argv, _torchrun_exits),
    "deepspeed": Backend(_deepspeed_argv, _deepspeed_exits),
}
