"""What a training goes on from: published by rename, so that a reader never sees half of one."""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from trainer.config.errors import CheckpointError
from trainer.config.run_dir import write_atomically
from trainer.engine import Engine
from trainer.ranks import Ranks
from trainer.state import TrainState

STATE = "state.json"
"""Written last: a folder without it is not a checkpoint."""


@dataclass(frozen=True)
class Layout:
    """How the engine's tensors are spread over its files: what must be the same to read them again."""

    world_size: int
    zero_stage: int
    precision: str

    def __str__(self) -> str:
        return f"job.ranks={self.world_size}, ZeRO-{self.zero_stage}, engine.precision={self.precision}"


class Checkpoints:
    """The folder step-N of each checkpoint, newest last."""

    def __init__(self, folder: Path, *, layout: Layout, keep_last: int, ranks: Ranks) -> None:
        self._folder = folder
        self._layout = layout
        self._keep_last = keep_last
        self._ranks = ranks

    def publish(self, engine: Engine, state: TrainState) -> None:
        """Collective: saves into a hidden folder, which rank zero then renames; older ones beyond keep_last go."""
        draft, final = self._folder / f".step-{state.step}", self._folder / f"step-{state.step}"
        if self._ranks.is_zero:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self._ranks.barrier()
        engine.save(draft)
        self._ranks.barrier()
        if self._ranks.is_zero:
            manifest = {"state": asdict(state), "layout": asdict(self._layout)}
            write_atomically(draft / STATE, json.dumps(manifest, indent=1))
            shutil.rmtree(final, ignore_errors=True)
            draft.rename(final)
            _sync_folder(self._folder)
            for old in complete_checkpoints(self._folder)[: -self._keep_last]:
                shutil.rmtree(old)
        self._ranks.barrier()

    def resume(self, engine: Engine) -> TrainState:
        """Collective: loads the newest complete checkpoint; a fresh state if there is none.

        Raises CheckpointError if it was saved in another layout.
        """
        found = complete_checkpoints(self._folder)
        if not found:
            return TrainState()
        manifest = json.loads((found[-1] / STATE).read_text(encoding="utf-8"))
        saved = Layout(**manifest["layout"])
        if saved != self._layout:
            raise CheckpointError(f"{found[-1]} was saved on {saved}; go on with the same, not {self._layout}")
        engine.load(found[-1])
        return TrainState(**manifest["state"])


def newest_step(folder: Path) -> int:
    """The step that resume would go on from; 0 if there is no complete checkpoint."""
    found = complete_checkpoints(folder)
    return int(found[-1].name.removeprefix("step-")) if found else 0


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    steps = {path: re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*") if (path / STATE).is_file()}
    return sorted(
        (path for path, match in steps.items() if match), key=lambda path: int(path.name.removeprefix("step-"))
    )


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
