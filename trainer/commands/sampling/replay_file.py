"""The file of sampled rows, which an interrupted command continues where it ended."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shardtune.errors import DataError
from shardtune.json_lines import complete_lines, json_line
from shardtune.run_dir.files import write_atomically

Row = Mapping[str, Any]
REPEATED = "repeated"
OTHERS = {"model": "another model", "prompt rows": "other prompts"}
"""The settings that are digests -> how a message says that they differ."""


@dataclass
class ReplayFile:
    """The rows so far, and how many were drawn for them. Beside the file is a hidden one with what has drawn them."""

    path: Path
    settings: Mapping[str, Any]
    """What decides the rows."""
    num_drawn: int = 0
    num_rows: int = 0
    num_cut: int = 0
    """Rows that end at the maximum length."""
    dropped: Counter[str] = field(default_factory=Counter)
    """How many draws were no rows, by the reason."""

    def __post_init__(self) -> None:
        self._seen: set[bytes] = set()
        self._num_bytes = 0

    @property
    def state_path(self) -> Path:
        """The hidden file; its ending is none that a folder of data would be searched for."""
        return self.path.with_name(f".{self.path.name}.sampling")

    def resume(self) -> None:
        """Continues the file if there is one. Raises DataError if it was drawn otherwise, or was not drawn at all."""
        if not self.path.exists():
            return
        try:
            state = json.loads(self.state_path.read_text(encoding="utf-8"))
            settings, num_bytes = state["settings"], state["num_bytes"]
            counts = {name: state[name] for name in ("num_drawn", "num_rows", "num_cut")}
            dropped = Counter(state["dropped"])
        except (OSError, ValueError, KeyError, TypeError):
            raise DataError(
                f"--out: {self.path} exists, and this command has not begun it; remove it, or give another file"
            ) from None
        if changed := [name for name, value in self.settings.items() if settings.get(name) != value]:
            began = [OTHERS.get(name) or f"{name} {settings.get(name)}" for name in changed]
            raise DataError(
                f"--out: {self.path} was begun with {', '.join(began)}; give the same again, or another file"
            )
        if self.path.stat().st_size < num_bytes:
            raise DataError(f"--out: {self.path} has been shortened since; remove it, or give another file")
        os.truncate(self.path, num_bytes)  # what a killed command has written in part
        self._num_bytes, self.dropped = num_bytes, dropped
        self.num_drawn, self.num_rows, self.num_cut = counts["num_drawn"], counts["num_rows"], counts["num_cut"]
        self._seen = {_digest(f"{line}\n") for line in complete_lines(self.path)}

    def add(self, drawn: Iterable[tuple[Row | str, bool]], *, at_most: int) -> None:
        """Appends the next draws, each a row, or why it is none, and whether it is cut; until there are `at_most` rows.

        They are on disk when this returns. Raises OSError.
        """
        lines = []
        for row, is_cut in drawn:
            if self.num_rows >= at_most:
                break
            self.num_drawn += 1
            line = row if isinstance(row, str) else json_line(row)
            if isinstance(row, str) or (digest := _digest(line)) in self._seen:
                self.dropped[row if isinstance(row, str) else REPEATED] += 1
                continue
            self._seen.add(digest)
            lines.append(line.encode())
            self.num_rows += 1
            self.num_cut += is_cut
        with self.path.open("ab") as file:
            file.write(b"".join(lines))
            file.flush()
            os.fsync(file.fileno())
        self._num_bytes += sum(map(len, lines))
        self._keep_state()

    def _keep_state(self) -> None:
        state = {
            "settings": self.settings,
            "num_bytes": self._num_bytes,
            "num_drawn": self.num_drawn,
            "num_rows": self.num_rows,
            "num_cut": self.num_cut,
            "dropped": self.dropped,
        }
        write_atomically(self.state_path, json.dumps(state, indent=1))


def _digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode(), digest_size=16).digest()
