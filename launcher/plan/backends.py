"""torchrun and deepspeed on one machine: their command lines, and how they report a dead rank."""

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
    """Its output -> exit code (negative: a signal) of each local rank that it reports as failed, in the same order;
    -SIGTERM for ranks that it ended itself."""


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
    # deepspeed does not support port 0; a port derived from the run directory keeps two runs on one machine apart.
    port = 20_000 + sum(map(ord, "".join(module))) % 10_000
    runner = (sys.executable, "-m", "deepspeed.launcher.runner", f"--num_gpus={num_ranks}", f"--master_port={port}")
    return (*runner, "--module", *module)


def _torchrun_exits(text: str) -> dict[int, int]:
    # A log line for the first rank that failed, and a table at the end for all.
    exits = re.findall(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+) \(pid: (\d+)", text)
    table = re.findall(r"local_rank: (\d+)\).*?\n\s*exitcode\s*: (-?\d+) \(pid: (\d+)", text)
    exits += [(code, rank, pid) for rank, code, pid in table]
    # torchrun kills a rank that ignores SIGTERM half a minute later: it has not failed either.
    ended_by_torchrun = set(re.findall(r"Unable to shutdown process (\d+) via", text))
    return {int(rank): -signal.SIGTERM if pid in ended_by_torchrun else int(code) for code, rank, pid in exits}


def _deepspeed_exits(text: str) -> dict[int, int]:
    exits = re.findall(r"--local_rank=(\d+)[^\n]* exits with return code = (-?\d+)", text)
    return {int(rank): int(code) for rank, code in exits}


BACKENDS: dict[str, Backend] = {
    "torchrun": Backend(_torchrun_argv, _torchrun_exits),
    "deepspeed": Backend(_deepspeed_argv, _deepspeed_exits),
}
