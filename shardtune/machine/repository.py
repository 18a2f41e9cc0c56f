"""Which commit of a git repository a folder is at, as git says it; never waited for without end."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 5.0
"""`git status` takes longer than that only on file systems that are slow or hang."""


@dataclass(frozen=True)
class Repository:
    """The state of the repository around a folder."""

    commit: str
    is_dirty: bool | None
    """Whether tracked files differ from the commit; None if git did not say so in time."""
    remote: str | None
    """The URL of the remote `origin`, as it is configured: it may hold a password."""


def repository_of(folder: Path) -> Repository | None:
    """The repository around this folder; None outside one, before its first commit, or without git."""
    commit = _ask(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _ask(folder, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    return Repository(commit, None if changes is None else bool(changes), _ask(folder, "remote", "get-url", "origin"))


def _ask(folder: Path, *arguments: str) -> str | None:
    """What git prints; None if it fails, or does not answer in time."""
    program = shutil.which("git")
    if program is None:
        return None
    try:
        answer = subprocess.run(
            [program, "-C", str(folder), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.decode(errors="replace").strip() if answer.returncode == 0 else None
