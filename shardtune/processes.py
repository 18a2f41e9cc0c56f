"""Identifies processes, and whether they are still alive."""

from pathlib import Path


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
