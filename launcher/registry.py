"""Which run directories this machine knows of, wherever they lie: all that a user has ever trained from here.

One path a line, in the user's state folder (XDG Base Directory Specification). Whoever cannot write there does without.
"""

import os
from pathlib import Path

from shardtune.run_dir.files import CONFIG, write_atomically

MANY = 1000
"""With more lines than that, those of folders that are gone are left out when it is written."""


def register_file() -> Path:
    """Where it is."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shardtune" / "runs"


def remember(*run_dirs: Path) -> None:
    """Adds run directories that are not there yet."""
    try:
        lines = _lines()
        new = [line for line in dict.fromkeys(str(its.absolute()) for its in run_dirs) if line not in lines]
        if not new:
            return
        path = register_file()
        path.parent.mkdir(parents=True, exist_ok=True)
        if len(lines) + len(new) > MANY:
            kept = [line for line in lines if Path(line).is_dir()]
            write_atomically(path, "".join(f"{line}\n" for line in (*kept, *new)))
            return
        with path.open("a", encoding="utf-8") as file:  # a single write: others may add theirs at the same time
            file.write("".join(f"{line}\n" for line in new))
    except (OSError, UnicodeError):
        pass  # a home that cannot be written, as on some compute nodes, keeps no one from training


def known() -> list[Path]:
    """Those that are still there."""
    try:
        return [Path(line) for line in _lines() if (Path(line) / CONFIG).is_file()]
    except (OSError, UnicodeError):
        return []


def _lines() -> list[str]:
    path = register_file()
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
