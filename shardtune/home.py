"""The user's home and name, where there are any: `~` is expanded or refused, and never becomes a folder."""

import getpass
import os
from pathlib import Path

from shardtune.errors import ConfigError


def expand_home(path: str | Path) -> Path:
    """Return the path with `~` or `~user` replaced by the home directory. Raises ConfigError if that is unknown."""
    if (fault := home_fault(path)) is not None:
        raise ConfigError(fault)
    return Path(path).expanduser()


def user_name() -> str:
    """The name of this user, or the number where the password file lacks it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # OSError since Python 3.13
        return f"user id {os.getuid()}"


def home_fault(path: str | Path) -> str | None:
    """Why `~` at the beginning of a path cannot be expanded, and what to do; None if it can, or there is none."""
    try:
        Path(path).expanduser()
    except (RuntimeError, ValueError):  # ValueError: a null byte in the name
        user = Path(path).parts[0].removeprefix("~")
        who = (
            f"there is no user {user!r}"
            if user
            else f"user id {os.getuid()} has no home directory: HOME is not set, and the password file lacks it"
        )
        return f"'{path}': {who}; {'' if user else 'set HOME, or '}give an absolute path"
    return None
