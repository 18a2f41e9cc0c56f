"""The lines that this user has had executed, in a file that nobody else can write.

A line is a key of the recipe and its value, whichever run directory has it: a run may be moved, or be reached by
another path. Without a home that is the user's alone, none is kept, and none is known.
"""

import contextlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardtune.home import state_folder
from shardtune.json_lines import complete_lines


def unaccepted(lines: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the lines that this user has not accepted yet."""
    known = _known()
    return {key: value for key, value in lines.items() if _as_text(key, value) not in known}


def accept(lines: Mapping[str, Any]) -> None:
    """Records these lines, if this user has a home to record them in."""
    if not (new := unaccepted(lines)):
        return
    with contextlib.suppress(OSError, RuntimeError):  # some compute nodes have no home, or one that cannot be written
        path = _file()
        path.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _is_ours_alone(path.parent.lstat()):
            return
        descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:  # a single write: other processes may add lines
            file.write("".join(f"{_as_text(key, value)}\n" for key, value in new.items()))


def is_own(status: os.stat_result) -> bool:
    """Whether this user has written the file of this status: it is the user's, and no one else may write to it."""
    return stat.S_ISREG(status.st_mode) and _is_ours_alone(status)


def _is_ours_alone(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _known() -> set[str]:
    with contextlib.suppress(OSError, RuntimeError, UnicodeError):
        path = _file()
        if _is_ours_alone(path.parent.lstat()) and is_own(path.lstat()):
            return set(complete_lines(path))
    return set()


def _file() -> Path:
    return state_folder() / "accepted" / "lines"


def _as_text(key: str, value: Any) -> str:
    return json.dumps([key, value])
