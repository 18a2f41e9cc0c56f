"""Where compiled code is kept between starts: what lies there is run, so no other user may have written it."""

import os
import stat
import tempfile
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.home import expand_home

FOLDER = "~/.cache/shardtune/compiled"
VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""torch's own default is a folder in /tmp, whose name anybody can guess and create. Triton's cache is inside it."""


def keep_compiled_code() -> str | None:
    """Has torch keep compiled code in a private folder of this user, unless the environment names another one.

    Returns what the user should know: where the code cannot be kept for the next start.
    """
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    if os.environ.get(VARIABLE, "") not in ("", default_cache_dir()):  # torch itself sets it when it is imported
        return None
    folder, note = _private_folder()
    os.environ[VARIABLE] = str(folder)
    return note


def _private_folder() -> tuple[Path, str | None]:
    try:
        folder = expand_home(FOLDER)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fault = _fault(folder)
    except (ConfigError, OSError) as error:
        fault = str(error)
    if fault is None:
        return folder, None
    note = (
        f"engine.compile: compiled code is not kept for the next start ({fault}); set {VARIABLE} to a folder of yours"
    )
    return Path(tempfile.mkdtemp(prefix="shardtune-compiled-")), note


def _fault(folder: Path) -> str | None:
    """Why code from this folder cannot be trusted; None if only this user can write to it."""
    status = folder.stat()
    if status.st_uid != os.getuid():
        return f"{folder} belongs to another user"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{folder} can be written to by other users"
    return None
