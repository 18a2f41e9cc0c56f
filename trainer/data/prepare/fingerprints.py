"""Digests of files, remembered for as long as the file system reports a file as unchanged."""

import contextlib
import hashlib
import json
import time
from pathlib import Path

from shardtune.rows.readers.parallel_text import sides_of
from shardtune.rows.source_files import file_digest
from shardtune.run_dir.files import write_atomically

RACY_S = 2.0
"""A file changed this recently is not remembered: it may change again within the same tick of the clock."""


class Fingerprints:
    """The digests of files, remembered in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, path: Path) -> str:
        """The file_digest of a file, without reading it again if it has not changed."""
        if sides := sides_of(path):
            return ":".join(self.of(side) for side in sides.values())
        try:
            stat = path.stat()
        except OSError:
            return file_digest(path)  # raises an error that says why it cannot be read
        name = str(path.absolute())
        state = [name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev]
        note = self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            known = {}
        if isinstance(known, dict) and known.get("state") == state and "digest" in known:
            return str(known["digest"])
        digest = file_digest(path)
        if abs(time.time() - stat.st_mtime) > RACY_S:
            with contextlib.suppress(OSError):  # a cache that cannot be written to may hold all that is needed
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomically(note, json.dumps({"state": state, "digest": digest}))
        return digest
