"""The run directories that were trained or submitted from this machine, wherever they are.

One path a line, in the user's state folder (XDG Base Directory Specification). Without a home, or write
access to it, none is kept.
"""

from pathlib import Path

from shardtune.home import state_folder
from shardtune.json_lines import complete_lines
from shardtune.run_dir.files import CONFIG, absolute, write_atomically

MANY = 1000
"""With more lines than this, writing the file drops directories that no longer exist."""


def register_file() -> Path:
    """The path of the register. Raises RuntimeError if this user has no home."""
    return state_folder() / "runs"


def remember(*run_dirs: Path) -> None:
    """Adds run directories that are not registered yet."""
    try:
        lines = _lines()
        new = [line for line in dict.fromkeys(str(absolute(run_dir)) for run_dir in run_dirs) if line not in lines]
        if not new:
            return
        path = register_file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(lines) + len(new) > MANY:
            kept = [line for line in lines if Path(line).is_dir()]
            write_atomically(path, "".join(f"{line}\n" for line in (*kept, *new)))
            return
        with path.open("a", encoding="utf-8") as file:  # a single write: other processes may add lines
            file.write("".join(f"{line}\n" for line in new))
    except (OSError, UnicodeError, RuntimeError):
        pass  # some compute nodes have no home, or one that is not writable, which must not prevent training


def known() -> list[Path]:
    """The registered run directories that still exist."""
    try:
        return [Path(line) for line in _lines() if (Path(line) / CONFIG).is_file()]
    except (OSError, UnicodeError, RuntimeError):
        return []


def _lines() -> list[str]:
    path = register_file()
    return list(complete_lines(path)) if path.is_file() else []
