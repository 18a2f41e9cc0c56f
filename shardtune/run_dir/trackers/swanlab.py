"""SwanLab: an offline run in a folder, which `swanlab sync` uploads if the user wants that.

Its API takes no times: the points of a replay have the time of the replay. A run of an earlier process cannot be added
to, so that a longer run is written again as a whole.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardtune.run_dir.trackers.tracker import End, RunFacts, Target, Tracker
from shardtune.run_dir.view.tracked import Record

FOLDER = "swanlog"
"""In a run directory, unless another folder is given."""
STATES = {"finished": "success", "stopped": "aborted", "running": "aborted"}


class SwanlabTracker(Tracker):
    """The folder of an offline run."""

    flags = frozenset({"project", "name", "out"})
    continues = False
    ignores_repeats = False

    def __init__(self, facts: RunFacts, target: Target) -> None:
        import swanlab

        self._swanlab: Any = swanlab
        self._facts = facts
        self._folder = (target.out or facts.run_dir / FOLDER).absolute()
        self.place = str(self._folder)
        self._run: Any = None

    def has(self, run: str) -> bool:
        return (self._folder / run).is_dir()

    def delete(self, run: str) -> None:
        shutil.rmtree(self._folder / run, ignore_errors=True)

    def open(self, run: str | None, began: float) -> str:
        settings = self._swanlab.Settings
        quiet = settings(
            interactive=False,
            probe=settings.Probe(
                hardware=False, runtime=False, requirements=False, git=False, swanlab=False, monitor=False
            ),
            terminal=settings.Terminal(proxy_type="none"),
        )
        self._folder.mkdir(parents=True, exist_ok=True)
        self._run = self._swanlab.init(
            mode="offline",
            log_dir=str(self._folder),
            project=re.sub(r"[^0-9a-zA-Z_\-+.]", "-", self._facts.project),
            name=self._facts.name,
            group=self._facts.group,
            config=dict(self._facts.config),
            settings=quiet,
        )
        return Path(self._run.dir).name

    def send(self, records: Sequence[Record]) -> None:
        for record in records:
            shown = {
                name: value
                if isinstance(value, int | float)
                else self._swanlab.Text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
                for name, value in record.values.items()
            }
            self._run.log(shown, step=record.step)

    def close(self, end: End, ended: float) -> None:
        self._run.finish(state=STATES[end])
