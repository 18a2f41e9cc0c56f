"""How much memory a machine has for the processes of a job."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path


def host_memory() -> int:
    """Bytes of memory, of the machine or of the container or Slurm job that this process is in; 0 if not known."""
    found = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    return min([int(found[1]) * 1024 if found else 0, *limits_of_memory()])


def limits_of_memory(root: Path = Path("/")) -> Iterator[int]:
    """The memory limits of this process's control groups in bytes: those of a container or of a Slurm job."""
    for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        mount, name = ("memory", "memory.limit_in_bytes") if controllers else ("", "memory.max")
        group = root / "sys/fs/cgroup" / mount / path.lstrip("/")
        # In a container the path may be the one outside of it, which does not exist; the folders above it still apply.
        for folder in (group, *group.parents[: len(Path(path).parts) - 1]):
            with contextlib.suppress(OSError):
                text = (folder / name).read_text(encoding="ascii").strip()
                if text.isdecimal():  # or `max`
                    yield int(text)
