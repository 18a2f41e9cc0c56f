"""The end of the log of a run, from a file of its directory alone."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shardtune.launcher.runs.monitor import job_outputs
from shardtune.run_dir.events.line_file import open_regular

LOG_BYTES = 2**20
"""Bytes of the end of a log that are read."""
MOST_LINE = 10_000
"""Characters of a line of a log that are shown."""


def log_tail(run_dir: Path, num_lines: int) -> dict[str, Any]:
    """The last lines of the newest output of the run's jobs, or of rank 0's log."""
    for path in _logs(run_dir):
        try:
            descriptor = open_regular(path)
        except OSError:
            continue
        try:
            size = os.fstat(descriptor).st_size
            data = os.pread(descriptor, LOG_BYTES, max(0, size - LOG_BYTES))
        finally:
            os.close(descriptor)
        lines = data.decode("utf-8", "replace").split("\n")
        whole = lines[1:] if size > LOG_BYTES else lines
        shown = whole[:-1] if whole[-1:] == [""] else whole
        name = str(path.relative_to(run_dir.resolve()))
        return {"file": name, "lines": [line.rpartition("\r")[2][:MOST_LINE] for line in shown[-num_lines:]]}
    return {"file": "", "lines": []}


def _logs(run_dir: Path) -> Iterator[Path]:
    """The logs of the run, those that tell most first; only files that lie within its directory."""
    try:
        outputs = job_outputs(run_dir)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):  # a damaged file
        outputs = []
    folder = run_dir.resolve()
    for path in (*outputs, *(run_dir / "logs" / name for name in ("rank-0.log", "launcher.log"))):
        try:
            resolved = path.resolve()
            if resolved.is_relative_to(folder) and stat.S_ISREG(resolved.stat().st_mode) and resolved.stat().st_size:
                yield resolved
        except (OSError, RuntimeError):
            continue
