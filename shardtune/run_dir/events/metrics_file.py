"""The events of metrics.jsonl as it grows, a chunk at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardtune.run_dir.events.line_file import BLOCK_BYTES, Block, LineFile
from shardtune.run_dir.files import events_in


@dataclass(frozen=True)
class NewEvents:
    """What one call of MetricsFile.read has found."""

    events: list[dict[str, Any]] = field(default_factory=list)
    num_damaged: int = 0
    """Lines that are not events: not JSON, or without `event` and `time`."""
    begins_anew: bool = False
    """Whether all events of earlier calls are void, because the file was replaced or truncated."""
    is_behind: bool = False
    """Whether the file may have more complete lines than were read."""
    exists: bool = True


class MetricsFile:
    """The events of a metrics.jsonl, in order, each once."""

    def __init__(self, path: Path, *, tail_bytes: int | None = None) -> None:
        """With `tail_bytes`, reading begins at most that far before the end of the file, after the end of a line."""
        self._file = LineFile(path, tail_bytes=tail_bytes)
        self._has_begun = False

    @property
    def skipped_head(self) -> bool:
        """Whether reading began after the first event, as `tail_bytes` asked."""
        return self._file.skipped_head

    @property
    def progress(self) -> float:
        """The part of the file that has been read, from 0 to 1."""
        return min(1.0, self._file.offset / self._file.size) if self._file.size > 0 else float(self._file.size == 0)

    def read(self, max_bytes: int = BLOCK_BYTES) -> NewEvents:
        """The next events, of about `max_bytes`; none of a file that cannot be read now."""
        blocks = self._file.blocks(max_bytes)
        try:
            block = next(blocks, Block(b"", is_first=False))
        except OSError:
            return NewEvents(exists=False)
        finally:
            blocks.close()
        begins_anew, self._has_begun = block.is_first and self._has_begun, True
        lines = block.lines()
        events = events_in(lines)
        return NewEvents(events, len(lines) - len(events), begins_anew, not self._file.is_at_end)
