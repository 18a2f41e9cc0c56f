"""Which checkpoint a run goes on from, and how: the newest one whose bytes are those that were written."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import CHECKPOINTS, FORKED_FROM
from shardtune.trainer.checkpoint.checkpoints import CheckpointPolicy, publish_folder
from shardtune.trainer.checkpoint.manifest import (
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    UnknownFormatError,
    best_first,
    checkpoint_folders,
    damage,
    open_checkpoint,
    step_of,
)
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.background import run_on_every_rank
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.snapshot import Saved, SavedTensors

KINDS = (WEIGHTS, OPTIMIZER)


@dataclass(frozen=True)
class Found:
    """What a run directory has to go on from."""

    checkpoint: Checkpoint | None = None
    damaged: dict[int, str] = field(default_factory=dict)
    """Newer steps whose checkpoints were passed over, and what is wrong with each."""

    @property
    def step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def is_evaluated(self) -> bool:
        """Whether dev was asked of it."""
        return self.checkpoint is not None and self.checkpoint.manifest.dev_metrics is not None


def find_newest(folder: Path, ranks: Ranks) -> Found:
    """Collective: the newest checkpoint that is complete and as it was written; each rank reads a part of its bytes."""
    damaged: dict[int, str] = {}
    paths: list[Path] = ranks.gather(checkpoint_folders(folder) if ranks.is_zero else [])[0]
    for path in reversed(paths):
        problem = _problem(path, KINDS, ranks)
        if problem is None:
            return Found(Checkpoint(path), damaged)
        damaged[step_of(path)] = f"{path}: {problem}"
    return Found(None, damaged)


def first_whole(
    checkpoints: Sequence[Checkpoint], ranks: Ranks, kinds: Sequence[str] = (WEIGHTS,)
) -> Checkpoint | None:
    """Collective: the first of these, as rank zero has them, whose files of these kinds are as they were written."""
    paths: list[Path] = ranks.gather([its.path for its in checkpoints])[0]
    return next((Checkpoint(path) for path in paths if _problem(path, kinds, ranks) is None), None)


def restore(engine: Engine, checkpoint: Checkpoint, *, weights_only: bool = False) -> None:
    """Collective: gives the engine what the checkpoint holds. Raises CheckpointError if it is of another model."""
    manifest = checkpoint.manifest
    engine.restore(
        Saved(
            checkpoint.path,
            SavedTensors(checkpoint.files(WEIGHTS)),
            None if weights_only else SavedTensors(checkpoint.files(OPTIMIZER)),
            manifest.shapes,
            manifest.optimizer_keys,
            manifest.optimizer_scalars,
            manifest.loss_scale,
        )
    )


def state_of(checkpoint: Checkpoint, complete: Sequence[Checkpoint], policy: CheckpointPolicy) -> TrainState:
    """Where the training stood; its best model by the metric that the recipe names now, among those that are there."""
    state = checkpoint.manifest.state
    if checkpoint.manifest.best_metric == policy.metric:
        return state
    earlier = [its for its in complete if its.step <= state.step]
    best = best_first(earlier, policy.metric, lower_is_better=policy.lower_is_better)[:1]
    if not best:
        return replace(state, best_step=None, best_value=None)
    return replace(state, best_step=best[0].step, best_value=best[0].manifest.metric(policy.metric))


def fork(run_dir: Path, recipe_hash: str, ranks: Ranks) -> Found | None:
    """Collective: gives a run directory that is to begin from another's newest checkpoint that one; None if it is not.

    The files are linked where the disk can, and copied elsewhere. What dev said of the model is forgotten: the new
    recipe may ask another dev. Raises CheckpointError if the other has no checkpoint.
    """
    if not (run_dir / FORKED_FROM).is_file():
        return None
    source = Path(json.loads((run_dir / FORKED_FROM).read_text(encoding="utf-8"))["run_dir"]) / CHECKPOINTS
    found = find_newest(source, ranks)
    if found.checkpoint is None:
        raise CheckpointError("\n".join([f"{source} has no whole checkpoint to begin from", *found.damaged.values()]))
    path = run_dir / CHECKPOINTS / found.checkpoint.path.name
    newest = found.checkpoint
    run_on_every_rank(ranks, lambda: _adopt(newest, path, recipe_hash) if ranks.is_zero else None)
    return Found(open_checkpoint(path), found.damaged)


def _adopt(source: Checkpoint, path: Path, recipe_hash: str) -> None:
    draft = path.with_name(f".{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in source.manifest.files:
        try:
            os.link(source.path / name, draft / name)
        except OSError:  # another disk, or one that knows no links
            shutil.copy2(source.path / name, draft / name)
    state = replace(
        source.manifest.state,
        best_step=None,
        best_value=None,
        dev_at_start=None,
        recent_losses=(),
        left_out=(),  # step numbers, which may mean other rows now
    )
    publish_folder(draft, path, replace(source.manifest, state=state, dev_metrics=None, recipe_hash=recipe_hash))


def _problem(path: Path, kinds: Sequence[str], ranks: Ranks) -> str | None:
    """Collective: what is wrong with a checkpoint's files of these kinds; None if nothing is."""

    def look() -> str | None:
        try:
            checkpoint = open_checkpoint(path)
        except UnknownFormatError:
            raise
        except CheckpointError as error:
            return str(error)
        names = sorted(name for name in checkpoint.manifest.files if name.startswith(tuple(kinds)))
        return damage(checkpoint, names[ranks.rank :: ranks.world_size])

    return next((problem for problem in run_on_every_rank(ranks, look) if problem), None)
