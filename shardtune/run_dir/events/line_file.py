"""Reads the lines of metrics.jsonl as it grows, by offset, and sees when the file has begun anew.

A resume or a rollback replaces the file, others may truncate it or remove its folder, and the last line may be half
written. All who follow a run read its lines by this.
"""

import os
import stat
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 2**20
"""Bytes that are read at once; a block ends with a whole line, however long that is."""
MARK_BYTES = 256
"""That many bytes before the offset must still be there, because a file that was truncated may have grown past it."""


@dataclass(frozen=True)
class Block:
    """Whole lines of the file."""

    data: bytes
    is_first: bool
    """Whether they begin the file: what was read before is void."""

    def lines(self) -> list[bytes]:
        """The lines without their ends; only a newline ends a line."""
        return self.data.split(b"\n")[:-1]


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file. Raises OSError; for a pipe or a device too, which could block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


class LineFile:
    """The lines of a file that were not read yet."""

    def __init__(self, path: Path, *, tail_bytes: int | None = None) -> None:
        """With `tail_bytes`, reading begins at most that far before the end of the file, after the end of a line."""
        self.path = path
        self._tail_bytes = tail_bytes
        self._file_id: tuple[int, int] | None = None
        self._mark = b""
        self._seen: tuple[int, int] | None = None
        """Size and time of change, when all lines were read the last time."""
        self.offset = 0
        """The end of the lines that were read."""
        self.size = -1
        """That of the file when it was opened the last time; -1 before."""
        self.is_at_end = False
        """Whether there were no more whole lines when it was read the last time."""
        self.skipped_head = False
        """Whether reading began after the first line, as `tail_bytes` asked."""

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Generator[Block]:
        """Yields the lines that were written since the last call, or all lines of a file that is not the same or was
        written anew; of one that has become empty an empty block. An incomplete last line is left for the next call,
        and so is what is not taken. Raises OSError."""
        # Opened each time: a network file system looks at the server only then.
        descriptor = open_regular(self.path)
        try:
            yield from self._blocks(descriptor, block_bytes)
        finally:
            os.close(descriptor)

    def _blocks(self, descriptor: int, block_bytes: int) -> Generator[Block]:
        status = os.fstat(descriptor)
        file_id, now = (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns)
        if file_id == self._file_id and now == self._seen:
            return
        is_first = not self._goes_on(descriptor, file_id, status.st_size)
        self.size, self.is_at_end, self._seen = status.st_size, False, None
        if is_first:
            self._file_id = file_id
            self._begin(descriptor, status.st_size)
        while not self.is_at_end:
            data, self.is_at_end = whole_lines(descriptor, self.offset, block_bytes)
            if self.is_at_end:
                self._seen = now
            if data:
                self.offset += len(data)
                self._mark = (self._mark + data[-MARK_BYTES:])[-MARK_BYTES:]
                yield Block(data, is_first)
                is_first = False
        if is_first:
            yield Block(b"", True)

    def _begin(self, descriptor: int, size: int) -> None:
        self.offset, self._mark = 0, b""
        self.skipped_head = self._tail_bytes is not None and size > self._tail_bytes
        if self._tail_bytes is not None and self.skipped_head:
            begin = size - self._tail_bytes
            line = _rest_of_line(descriptor, begin)
            self.offset, self._mark = begin + len(line), line[-MARK_BYTES:]

    def _goes_on(self, descriptor: int, file_id: tuple[int, int], size: int) -> bool:
        """Whether this is still the file that was read, with the same bytes before the offset."""
        if file_id != self._file_id or size < self.offset:
            return False
        return os.pread(descriptor, len(self._mark), self.offset - len(self._mark)) == self._mark


def whole_lines(descriptor: int, offset: int, block_bytes: int = BLOCK_BYTES) -> tuple[bytes, bool]:
    """The next whole lines, about `block_bytes` of them, and whether the file has no more. Raises OSError."""
    data = b""
    while True:
        piece = os.pread(descriptor, block_bytes, offset + len(data))
        end, is_at_end = piece.rfind(b"\n") + 1, len(piece) < block_bytes
        if end:
            return data + piece[:end], is_at_end
        if is_at_end:
            return b"", True
        data += piece


def _rest_of_line(descriptor: int, offset: int) -> bytes:
    """The bytes up to the end of the line that the offset is in, or of the file."""
    data = b""
    while piece := os.pread(descriptor, BLOCK_BYTES, offset + len(data)):
        if end := piece.find(b"\n") + 1:
            return data + piece[:end]
        data += piece
    return data
