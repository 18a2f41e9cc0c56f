"""Symbolic links of other users in a run directory, through which a start would write to somewhere else."""

import os
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import CHECKPOINTS, EXPORT, MODEL
from shardtune.users import user_name

FOLDERS = ("logs", CHECKPOINTS, f"{CHECKPOINTS}/*", EXPORT, f"{EXPORT}/*", MODEL, "trackers", "tensorboard", "swanlog")
"""The folders of a run directory that are written to, besides itself."""

ROOT = 0
"""The user who needs no link to write anywhere."""


def refuse_links(run_dir: Path) -> None:
    """Raises CheckpointError if a link that another user has made leads out of the run directory, or a folder cannot be
    searched for such.

    One's own links, and those of root, are followed: checkpoints may lie on another disk.
    """
    inside = run_dir.resolve()
    for folder in (run_dir, *(path for pattern in FOLDERS for path in run_dir.glob(pattern))):
        for link in _links(folder):
            if (owner := link.lstat().st_uid) not in (os.geteuid(), ROOT) and not link.resolve().is_relative_to(inside):
                raise CheckpointError(
                    f"{link}: this link leads out of the run directory, to {link.readlink()}, and {user_name(owner)} "
                    "has made it; remove it, or make it yourself"
                )


def _links(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read: {error.strerror}") from None
