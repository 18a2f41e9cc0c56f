"""TensorBoard: event files in a folder; without TensorFlow and torch.

Numbers are float32 there. The steps of a run are never rewritten: `delete` removes the files that shardtune has
written, and no others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import LaunchError
from shardtune.run_dir.trackers.tracker import End, RunFacts, Target, Tracker
from shardtune.run_dir.view.tracked import Record, Value

OURS = ".shardtune"
"""The end of the names of our event files."""
FOLDER = "tensorboard"
"""In a run directory, unless another folder is given."""


class TensorboardTracker(Tracker):
    """The event files of a run: in RUN_DIR/tensorboard, or in OUT/NAME."""

    flags = frozenset({"name", "out"})
    continues = True
    ignores_repeats = False

    def __init__(self, facts: RunFacts, target: Target) -> None:
        self._facts = facts
        self._folder = facts.run_dir / FOLDER if target.out is None else target.out / facts.name
        self.place = str(self._folder)
        self._writer: Any = None

    def has(self, run: str) -> bool:
        return bool(self._files())

    def delete(self, run: str) -> None:
        for path in self._files():
            path.unlink(missing_ok=True)

    def open(self, run: str | None, began: float) -> str:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        if run is None:
            self._make_room()
        self._writer = EventFileWriter(str(self._folder), filename_suffix=OURS)
        if run is None:
            config = self._facts.config
            table = [["key", "value"], *([key, str(value)] for key, value in config.items())]
            self._add(0, began, _text("config", table))
            self._add(0, began, hparams_pb(dict(config), trial_id=self._facts.name, start_time_secs=began))
            self._writer.flush()
        return self._folder.name

    def send(self, records: Sequence[Record]) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for record in records:
            summary = Summary()
            for name, value in record.values.items():
                if isinstance(value, int | float):
                    summary.value.add(tag=name, simple_value=value)
                else:
                    summary.value.extend(_text(name, _cells(value)).value)
            self._add(record.step, record.time, summary)
        self._writer.flush()

    def close(self, end: End, ended: float) -> None:
        self._writer.close()

    def _add(self, step: int, time: float, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(wall_time=time, step=step, summary=summary))

    def _make_room(self) -> None:
        """Raises LaunchError if the folder has another run's files; leftovers in the run directory are removed."""
        if self._folder.parent == self._facts.run_dir:
            self.delete("")
        elif self._files():
            raise LaunchError(f"{self._folder} has the event files of another run; give another --name")

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"events.out.tfevents.*{OURS}"))


def _cells(value: Value) -> str | list[list[str]]:
    """A text as it is, a table as rows of cells under their heads; TensorBoard renders both, and no HTML in them."""
    if not isinstance(value, list):
        return str(value)
    heads = list(dict.fromkeys(head for row in value for head in row))
    return [heads, *([str(row.get(head, "")) for head in heads] for row in value)]


def _text(name: str, cells: str | list[list[str]]) -> Any:
    """The summary of a text, or of a table of texts."""
    import numpy as np
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    rows = cells.encode() if isinstance(cells, str) else [[cell.encode() for cell in row] for row in cells]
    summary = Summary()
    metadata = create_summary_metadata(display_name=name, description="")
    summary.value.add(tag=name, tensor=make_tensor_proto(np.array(rows, dtype=object)), metadata=metadata)
    return summary
