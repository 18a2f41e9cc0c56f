"""The newest lines of one file, such as the log of a rank, read when it changes."""

from pathlib import Path
from threading import RLock

TAIL_BYTES = 2**16


class OutputTail:
    """The end of the file at `path`; None for no file. `lock` is held while its lines change."""

    def __init__(self, lock: RLock) -> None:
        self.path: Path | None = None
        self.lines: list[str] = []
        self._lock = lock
        self._stamp: tuple[Path, int, int] | None = None
        """Path, size and time of the file as it was read."""

    def read(self) -> bool:
        """Reads the file if it has changed; returns whether it has."""
        path = self.path
        if path is None:
            return False
        try:
            status = path.stat()
            stamp = path, status.st_size, status.st_mtime_ns
            text = _tail(path, status.st_size) if stamp != self._stamp else ""
        except OSError:
            stamp, text = (path, -1, -1), ""
        if stamp == self._stamp:
            return False
        with self._lock:
            self._stamp, self.lines = stamp, text.removesuffix("\n").split("\n") if text else []
        return True


def _tail(path: Path, size: int) -> str:
    with path.open("rb") as file:
        if size > TAIL_BYTES:
            file.seek(size - TAIL_BYTES)
            file.readline()
        return file.read(2 * TAIL_BYTES).decode("utf-8", errors="replace")
