"""metrics.jsonl, read on from where the last call ended, also while the run writes it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from shardtune.run_dir.events.line_file import Block, whole_lines
from shardtune.run_dir.files import READ_AT_ONCE, events_in


class RewrittenError(Exception):
    """Lines that were read before are no longer in the file: a resume or a rollback has dropped them."""


class EventFile:
    """The events of a run, and how far they have been read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.num_bytes = 0
        """Of the lines that have been read."""
        self.num_skipped = 0
        """Lines that are no events, such as the blocks of NULs that a crashed file system leaves."""
        self._hash = xxhash.xxh3_128()
        self._inode: int | None = None

    @property
    def digest(self) -> str:
        """Of the lines that have been read."""
        return self._hash.hexdigest()

    def skip(self, num_bytes: int, digest: str) -> bool:
        """Goes past the first bytes, which an earlier process has read; returns False if they are not the same now."""
        self.rewind()
        if num_bytes == 0:
            return True
        try:
            with self.path.open("rb") as file:
                self._hash, self.num_bytes = _hash_of(file, num_bytes), num_bytes
                self._inode = os.fstat(file.fileno()).st_ino
                is_same = file.tell() == num_bytes and self.digest == digest
        except FileNotFoundError:
            is_same = False
        if not is_same:
            self.rewind()
        return is_same

    def rewind(self) -> None:
        """Goes back to the first line."""
        self._hash, self.num_bytes, self.num_skipped, self._inode = xxhash.xxh3_128(), 0, 0, None

    def chunks(self) -> Iterator[list[dict[str, Any]]]:
        """The events since the last call, some at a time; a line that is still being written is left for later.

        Raises RewrittenError, and OSError if the file cannot be read; one that does not exist yet has no events.
        """
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            if self.num_bytes:
                raise
            return
        with file:
            self._check(file)
            is_at_end = False
            while not is_at_end:
                data, is_at_end = whole_lines(file.fileno(), self.num_bytes)
                if not data:
                    return
                self._hash.update(data)
                self.num_bytes += len(data)
                lines = Block(data, is_first=False).lines()
                events = events_in(lines)
                self.num_skipped += len(lines) - len(events)
                yield events

    def _check(self, file: BinaryIO) -> None:
        """Raises RewrittenError if the lines that were read are not in the file any more."""
        status = os.fstat(file.fileno())
        is_another = self._inode not in (None, status.st_ino) or status.st_size < self.num_bytes
        if is_another and _hash_of(file, self.num_bytes).hexdigest() != self.digest:
            raise RewrittenError
        self._inode = status.st_ino


def _hash_of(file: BinaryIO, num_bytes: int) -> xxhash.xxh3_128:
    """The hash of the first bytes of the file, or of all if there are fewer; leaves the file after them."""
    found = xxhash.xxh3_128()
    file.seek(0)
    while num_bytes and (block := file.read(min(READ_AT_ONCE, num_bytes))):
        found.update(block)
        num_bytes -= len(block)
    return found
