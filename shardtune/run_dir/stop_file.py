"""RUN_DIR/stop: the file that asks the ranks of a run to stop, and says who asked.

A user's `touch` leaves it empty. Otherwise its first line says who asked. The second line is the token of the start
that is meant (shardtune/run_dir/lease.py), if a start asks its own ranks: it then means no other one.
"""

from dataclasses import dataclass
from pathlib import Path

from shardtune.run_dir.files import STOP, write_atomically


@dataclass(frozen=True)
class StopRequest:
    """Who asked, and which start is meant; None: the one that trains, or the next one."""

    by: str
    start: str | None

    def means(self, start: str | None) -> bool:
        """Whether the start with this token has to stop."""
        return self.start is None or self.start == start


def ask_to_stop(run_dir: Path, by: str, *, start: str | None = None) -> None:
    """Writes the file, unless there is one that means the same start, or any."""
    request = read_stop_request(run_dir / STOP)
    if request is None or not request.means(start):
        write_atomically(run_dir / STOP, "\n".join([by, *([start] if start else [])]) + "\n")


def read_stop_request(path: Path) -> StopRequest | None:
    """The request in this file; None if there is no such file. Raises OSError if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return None
    by, start = [*lines, "", ""][:2]
    return StopRequest(by.strip() or "a stop file", start.strip() or None)
