"""The user's home, where there is one: `~` is expanded or refused, never a folder of that name; the state folder."""

import os
from pathlib import Path

from shardtune.errors import ConfigError


def expand_home(path: str | Path) -> Path:
    """Return the path with `~` or `~user` replaced by the home directory. Raises ConfigError if that is unknown."""
    if (fault := home_fault(path)) is not None:
        raise ConfigError(fault)
    return Path(path).expanduser()


def state_folder() -> Path:
    """The folder of what is known to this user alone (XDG Base Directory Specification). Raises RuntimeError if this
    user has no home."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shardtune"


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
