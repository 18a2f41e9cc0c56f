"""Reads a growing metrics.jsonl piece by piece, and sees when it was truncated or replaced after a rollback."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BLOCK = 2**20
"""Bytes that are read at once; a block ends with a whole line, however long that is."""
MARK = 256
"""The bytes before the offset that must still be there, or else the file was written anew."""


class OverError(Exception):
    """The program is to end, and with it what it reads."""


@dataclass(frozen=True)
class Block:
    """Whole lines of the file."""

    data: bytes
    is_first: bool
    """Whether they begin the file: what was read before is void."""


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file. Raises OSError; for a pipe or a device too, which could block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


class MetricsFile:
    """The lines of a file that were not read yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file_id: tuple[int, int] | None = None
        self._mark = b""
        self._seen: tuple[int, ...] | None = None
        self.offset = 0
        """The end of the lines that were read."""

    def has_changed(self) -> bool:
        """Whether the file differs from how it was at the last call. Raises OSError."""
        status = self._path.stat()
        seen = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        is_new, self._seen = seen != self._seen, seen
        return is_new

    def size(self) -> int:
        """The size of the file in bytes. Raises OSError."""
        return self._path.stat().st_size

    def blocks(self) -> Iterator[Block]:
        """Yields the lines that were written since the last call, or all lines of a file that is not the same or was
        written anew. An incomplete last line is left for the next call. Raises OSError."""
        descriptor = open_regular(self._path)
        try:
            is_first = not self._goes_on(descriptor)
            if is_first:
                status = os.fstat(descriptor)
                self._file_id, self.offset, self._mark = (status.st_dev, status.st_ino), 0, b""
            while data := _whole_lines(descriptor, self.offset):
                self.offset += len(data)
                self._mark = data[-MARK:]
                yield Block(data, is_first)
                is_first = False
            if is_first:
                yield Block(b"", True)
        finally:
            os.close(descriptor)

    def _goes_on(self, descriptor: int) -> bool:
        """Whether this is still the file that was read, with the same bytes before the offset."""
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != self._file_id or status.st_size < self.offset:
            return False
        return os.pread(descriptor, len(self._mark), self.offset - len(self._mark)) == self._mark


def _whole_lines(descriptor: int, offset: int) -> bytes:
    """The next block of whole lines; empty at the end of the file."""
    data = b""
    while piece := os.pread(descriptor, BLOCK, offset + len(data)):
        end = piece.rfind(b"\n") + 1
        if end:
            return data + piece[:end]
        data += piece
    return b""


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
