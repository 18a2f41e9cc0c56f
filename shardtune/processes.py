"""Identifies processes, whether they are still alive, and how they end when nobody reads their output (`| head`)."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn


def pid_scope() -> str:
    """Where process ids have the same meaning as here: this boot of this machine, and this container."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks after the boot, which distinguishes it from later ones with the same id.

    None if there is no such process, or it has ended.
    """
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if after_name[0] == "Z" else int(after_name[19])


def run_piped(main: Callable[[], int]) -> NoReturn:
    """Exits with the code that `main` returns; with 0, and in silence, once nobody reads its output any more."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()
        code = 0
    sys.exit(code)


def forget_output() -> None:
    """Sends what is still to be written to nowhere; otherwise Python complains about it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
