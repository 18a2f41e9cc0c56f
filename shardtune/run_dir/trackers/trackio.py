"""trackio: its local database in TRACKIO_DIR; nothing is sent to a Space or a server.

The records go to trackio's storage itself: `trackio.init` would ask the Hugging Face Hub for the user's name, and
`trackio.log` knows no times but its own.
"""

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from shardtune.errors import LaunchError
from shardtune.run_dir.trackers.tracker import End, RunFacts, Target, Tracker
from shardtune.run_dir.view.tracked import Record, Value


class TrackioTracker(Tracker):
    """A run in a project of trackio's local database."""

    flags = frozenset({"project", "name"})
    continues = True
    ignores_repeats = False

    def __init__(self, facts: RunFacts, target: Target) -> None:
        from trackio.sqlite_storage import SQLiteStorage
        from trackio.utils import TRACKIO_DIR, get_storage_mode

        if get_storage_mode() != "sqlite":
            raise LaunchError(
                f"trackio: {TRACKIO_DIR} is on a network file system, where its SQLite database is not safe; set "
                "TRACKIO_DIR to a folder of this machine"
            )
        SQLiteStorage.validate_project_name(facts.project)
        self._storage: Any = SQLiteStorage
        self._facts = facts
        self.place = f"project {facts.project} in {TRACKIO_DIR}"
        self._run = ""
        self._config: dict[str, Any] = {}

    def has(self, run: str) -> bool:
        known = self._storage.get_run_records(self._facts.project)
        return any(record["id"] == run for record in known)

    def delete(self, run: str) -> None:
        self._storage.delete_run(self._facts.project, self._facts.name, run_id=run)

    def open(self, run: str | None, began: float) -> str:
        self._run = run or uuid.uuid4().hex
        self._config = {**self._facts.config, "_Created": _iso(began), "_Group": self._facts.group}
        return self._run

    def send(self, records: Sequence[Record]) -> None:
        texts = [(record, value) for record in records for value in record.values.values() if isinstance(value, str)]
        rows = [(record, _without_texts(record.values)) for record in records]
        rows = [(record, values) for record, values in rows if values]
        self._storage.bulk_log(
            self._facts.project,
            self._facts.name,
            [values for _, values in rows],
            steps=[record.step for record, _ in rows],
            timestamps=[_iso(record.time) for record, _ in rows],
            config=self._config,
            run_id=self._run,
        )
        parts = [value.partition(": ") for _, value in texts]
        self._storage.bulk_alert(
            self._facts.project,
            self._facts.name,
            titles=[title for title, _, _ in parts],
            texts=[text for _, _, text in parts],
            levels=["warn"] * len(texts),
            steps=[record.step for record, _ in texts],
            timestamps=[_iso(record.time) for record, _ in texts],
            run_id=self._run,
        )

    def close(self, end: End, ended: float) -> None:
        pass  # each batch is committed


def _without_texts(values: dict[str, Value]) -> dict[str, Any]:
    """The numbers, and the tables as trackio stores them."""
    return {
        name: {"_type": "trackio.table", "_value": value} if isinstance(value, list) else value
        for name, value in values.items()
        if not isinstance(value, str)
    }


def _iso(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat()
