"""What the dashboard needs of a metrics.jsonl beside its lines: whether it has changed, and both ends of a long one."""

import os
from pathlib import Path

from shardtune.run_dir.events.line_file import LineFile, open_regular


class OverError(Exception):
    """The program is to end, and with it what it reads."""


class MetricsFile(LineFile):
    """The lines of a file that were not read yet."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._looked_at: tuple[int, ...] | None = None

    def has_changed(self) -> bool:
        """Whether the file differs from how it was at the last call. Raises OSError."""
        status = self.path.stat()
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        is_new, self._looked_at = seen != self._looked_at, seen
        return is_new

    def num_unread(self) -> int:
        """The bytes of the file beyond the lines that were read. Raises OSError."""
        return self.path.stat().st_size - self.offset


def read_ends(path: Path, num_bytes: int) -> tuple[bytes, bytes]:
    """Whole lines from the begin and from the end of a file, at most `num_bytes` of each. Raises OSError."""
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, num_bytes, 0)
        begin = max(len(head), size - num_bytes)
        tail = os.pread(descriptor, size - begin, begin)
    finally:
        os.close(descriptor)
    if begin > len(head):
        tail = tail[tail.find(b"\n") + 1 :]
        return head[: head.rfind(b"\n") + 1], tail[: tail.rfind(b"\n") + 1]
    whole = head + tail
    return whole[: whole.rfind(b"\n") + 1], b""
