"""Reads metrics.jsonl as it grows: the new events by offset, and whether the file has begun anew.

A resume or a rollback replaces the file, others may truncate it or remove its folder, and the last line may be half
written.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from shardtune.run_dir.files import events_in

CHUNK_BYTES = 2**20
MARK_BYTES = 64
"""That many bytes before the offset are read again, because a file that was truncated may have grown past it since."""


@dataclass(frozen=True)
class NewEvents:
    """What one call of MetricsFile.read has found."""

    events: list[dict[str, Any]] = field(default_factory=list)
    num_damaged: int = 0
    """Lines that are not events: not JSON, or without `event` and `time`."""
    begins_anew: bool = False
    """Whether all events of earlier calls are void, because the file was replaced or truncated."""
    is_behind: bool = False
    """Whether the file has more complete lines than were read."""
    exists: bool = True


class MetricsFile:
    """The events of a metrics.jsonl, in order, each once."""

    def __init__(self, path: Path, *, tail_bytes: int | None = None) -> None:
        """With `tail_bytes`, reading begins at most that far before the end of the file, after the end of a line."""
        self._path = path
        self._tail_bytes = tail_bytes
        self._file_id: tuple[int, int] | None = None
        self._size, self._changed_ns = -1, -1
        self._offset = 0
        self._mark = b""
        self.skipped_head = False
        """Whether reading began after the first event, as `tail_bytes` asked."""

    @property
    def progress(self) -> float:
        """The part of the file that has been read, from 0 to 1."""
        return min(1.0, self._offset / self._size) if self._size > 0 else float(self._size == 0)

    def read(self, max_bytes: int = CHUNK_BYTES) -> NewEvents:
        """The next events, of about `max_bytes`; none of a file that cannot be read now."""
        try:
            # Opened each time: a network file system looks at the server only then.
            with self._path.open("rb") as file:
                return self._read(file, max_bytes)
        except OSError:
            return NewEvents(exists=False)

    def _read(self, file: BinaryIO, max_bytes: int) -> NewEvents:
        status = os.fstat(file.fileno())
        file_id, is_first = (status.st_dev, status.st_ino), self._file_id is None
        unchanged = (status.st_size, status.st_mtime_ns) == (self._size, self._changed_ns)
        if file_id == self._file_id and unchanged and self._is_at_end:
            return NewEvents()
        anew = file_id != self._file_id or status.st_size < self._offset or not self._is_marked(file)
        self._file_id, self._size, self._changed_ns = file_id, status.st_size, status.st_mtime_ns
        if anew:
            self._begin(file, status.st_size)
        file.seek(self._offset)
        data = file.read(max_bytes)
        if len(data) == max_bytes:
            data += file.readline()
        end = data.rfind(b"\n") + 1
        self._offset += end
        self._is_at_end = self._offset + len(data) - end >= status.st_size
        self._mark = (self._mark + data[:end])[-MARK_BYTES:]
        lines = data[:end].split(b"\n")[:-1]
        events = events_in(lines)
        return NewEvents(events, len(lines) - len(events), anew and not is_first, not self._is_at_end)

    _is_at_end = False

    def _begin(self, file: BinaryIO, size: int) -> None:
        self._offset, self._mark = 0, b""
        self.skipped_head = self._tail_bytes is not None and size > self._tail_bytes
        if self._tail_bytes is not None and self.skipped_head:
            file.seek(size - self._tail_bytes)
            self._mark = file.readline()[-MARK_BYTES:]
            self._offset = file.tell()

    def _is_marked(self, file: BinaryIO) -> bool:
        """Whether the bytes before the offset are those that were read."""
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark
