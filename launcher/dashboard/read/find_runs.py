"""Which run directories there are under a folder, or known on this machine."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from shardtune.errors import LaunchError
from shardtune.launcher.registry import known
from shardtune.run_dir.files import CONFIG, METRICS, absolute

DEEPEST = 8
"""Levels of folders that are searched."""
DEFAULT = Path("runs")


def check_root(root: Path) -> Path:
    """The absolute path of the folder. Raises LaunchError if it is not a folder that can be read."""
    path = absolute(root)
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise LaunchError(f"{root}: {what}; give a folder with run directories, such as runs")
    if not os.access(path, os.R_OK | os.X_OK):
        raise LaunchError(f"{root} cannot be read: permission denied; ask for the right to do so, or name another one")
    return path


def find_runs(root: Path | None, queued: Sequence[Path] = ()) -> list[Path]:
    """The run directories under `root`, by path; by default those in runs/, those started on this machine, and those
    of jobs in the queue, `queued`.

    Folders that cannot be read, or vanish meanwhile, are skipped. Nothing is listed twice, by whatever links it is
    reached.
    """
    if root is not None:
        return sorted(_under(root))
    found = {folder.resolve(): folder for folder in sorted({*known(), *queued}, reverse=True)}
    found |= {folder.resolve(): folder for folder in _under(DEFAULT.absolute())}
    return sorted(found.values())


def _under(root: Path) -> Iterator[Path]:
    """The run directories under a folder, which may be one itself."""
    seen: set[tuple[int, int]] = set()
    pending = [(root, 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue  # a link that leads back, or the same folder by another one
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                names = {entry.name: entry for entry in entries}
                if CONFIG in names or METRICS in names:
                    yield folder  # which has no other runs in it
                elif depth < DEEPEST:
                    inner = [name for name, entry in names.items() if not name.startswith(".") and _is_folder(entry)]
                    pending += [(folder / name, depth + 1) for name in inner]
        except OSError:
            continue


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
