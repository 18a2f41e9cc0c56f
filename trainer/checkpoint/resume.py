"""Resuming: finds the newest checkpoint whose bytes are intact, and restores it."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import CHECKPOINTS, FACTS, FORKED_FROM, link_or_copy
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
    refuse_other_sizes,
    step_of,
    with_manifest,
)
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.background import Background, run_on_zero
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.snapshot import Saved, SavedTensors

KINDS = (WEIGHTS, OPTIMIZER)


@dataclass(frozen=True)
class Found:
    """The checkpoint of a run directory to resume from; None if there is no intact one."""

    checkpoint: Checkpoint | None = None
    damaged: dict[int, str] = field(default_factory=dict)
    """What is wrong with each newer checkpoint that was skipped, by its step."""

    @property
    def step(self) -> int:
        return self.checkpoint.step if self.checkpoint else 0

    @property
    def is_evaluated(self) -> bool:
        """Whether the checkpoint has an evaluation."""
        return self.checkpoint is not None and self.checkpoint.manifest.is_evaluated


def find_newest(folder: Path, ranks: Ranks) -> Found:
    """Collective: the newest complete checkpoint with intact files; each rank verifies a share of the files."""
    damaged: dict[int, str] = {}
    paths = run_on_zero(ranks, lambda: checkpoint_folders(folder))
    for path in reversed(paths):
        found = _verified(path, KINDS, ranks)
        if isinstance(found, Checkpoint):
            return Found(found, damaged)
        damaged[step_of(path)] = f"{path}: {found}"
    return Found(None, damaged)


def first_whole(
    checkpoints: Sequence[Checkpoint], ranks: Ranks, kinds: Sequence[str] = (WEIGHTS,)
) -> Checkpoint | None:
    """Collective: the first of rank 0's `checkpoints` whose files of these kinds are intact, or None."""
    paths = ranks.from_zero([checkpoint.path for checkpoint in checkpoints])
    verified = (_verified(path, kinds, ranks) for path in paths)
    return next((checkpoint for checkpoint in verified if isinstance(checkpoint, Checkpoint)), None)


def restore(engine: Engine, checkpoint: Checkpoint, *, weights_only: bool = False) -> None:
    """Collective: loads the checkpoint into the engine. Raises CheckpointError if it is of another model."""
    manifest = checkpoint.manifest
    engine.restore(
        Saved(
            checkpoint.path,
            SavedTensors(checkpoint.files(WEIGHTS), opens_all=False),
            None if weights_only else SavedTensors(checkpoint.files(OPTIMIZER), opens_all=False),
            manifest.shapes,
            manifest.optimizer_keys,
            manifest.optimizer_scalars,
            manifest.loss_scale,
        )
    )


def state_of(checkpoint: Checkpoint, complete: Sequence[Checkpoint], policy: CheckpointPolicy) -> TrainState:
    """The checkpoint's state. If the recipe names another metric now, or nan became the best (of an older shardtune),
    best_step is recomputed from `complete`."""
    state = checkpoint.manifest.state
    is_nan = state.best_value is not None and math.isnan(state.best_value)
    if checkpoint.manifest.best_metric == policy.metric and not is_nan:
        return state
    earlier = [candidate for candidate in complete if candidate.step <= state.step]
    best = best_first(earlier, policy.metric, lower_is_better=policy.lower_is_better)[:1]
    if not best:
        return replace(state, best_step=None, best_value=None, best_excess=0.0)
    chosen = best[0].manifest
    return replace(state, best_step=chosen.step, best_value=chosen.metric(policy.metric), best_excess=chosen.excess)


def fork(run_dir: Path, recipe_hash: str, ranks: Ranks) -> Found | None:
    """Collective: puts the newest checkpoint of the forked run into the run directory; None if it is not a fork.

    The files are hard links where the file system allows it, else copies. Dev metrics are dropped, because the new
    recipe may name another dev split. Raises CheckpointError if the forked run has no intact checkpoint.
    """
    source = run_on_zero(ranks, lambda: _source_of_fork(run_dir))
    if source is None:
        return None
    found = find_newest(source, ranks)
    if found.checkpoint is None:
        raise CheckpointError("\n".join([f"{source} has no intact checkpoint to start from", *found.damaged.values()]))
    path = run_dir / CHECKPOINTS / found.checkpoint.path.name
    newest = found.checkpoint
    return Found(run_on_zero(ranks, lambda: _adopt(newest, path, recipe_hash)), found.damaged)


def _source_of_fork(run_dir: Path) -> Path | None:
    """The checkpoints of the run that this one was forked from; None if it is no fork."""
    if not (run_dir / FORKED_FROM).is_file():
        return None
    return Path(json.loads((run_dir / FORKED_FROM).read_text(encoding="utf-8"))["run_dir"]) / CHECKPOINTS


def refuse_other_labels(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Raises CheckpointError if the run began with its labels in another order, as an earlier version gave them to a
    pretrained head: its checkpoints would mean other labels."""
    path = run_dir / FACTS
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in ("label_names", "types"):
        if key in before and before[key] != facts.get(key):
            known, now = (", ".join(map(str, names[:10])) for names in (before[key], facts.get(key, [])))
            raise CheckpointError(
                f"{run_dir} began with the labels {known}, and the model's head now gives {now}. Use another --run-dir"
            )


def _adopt(source: Checkpoint, path: Path, recipe_hash: str) -> Checkpoint:
    """Makes the checkpoint one of another run, in the folder `path`."""
    draft = path.with_name(f".{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for name in source.manifest.files:
        link_or_copy(source.path / name, draft / name)
    state = replace(
        source.manifest.state,
        best_step=None,
        best_value=None,
        best_excess=0.0,
        dev_at_start=None,
        is_beyond_retention=False,
        recent_losses=(),
        left_out=(),  # step numbers, which may stand for other rows now
    )
    publish_folder(
        draft, path, replace(source.manifest, state=state, dev_metrics=None, retention=None, recipe_hash=recipe_hash)
    )
    return open_checkpoint(path)


def _verified(path: Path, kinds: Sequence[str], ranks: Ranks) -> Checkpoint | str:
    """Collective: the checkpoint in a folder if its files of these kinds are intact, else what is wrong with it.

    Rank 0 reads the manifest, and each rank verifies a share of the files: those that it has written itself, if they
    are as many as then.
    """
    checkpoint = run_on_zero(ranks, lambda: _with_manifest(path))
    if isinstance(checkpoint, str):
        return checkpoint

    def look() -> str | None:
        own = [name for kind in KINDS for name in ranks.share([path.name for path in checkpoint.files(kind)])]
        try:
            refuse_other_sizes(checkpoint, own)
        except CheckpointError as error:
            return str(error)
        return damage(checkpoint, [name for name in own if name.startswith(tuple(kinds))])

    problems = Background(ranks, look).results_on_zero()
    return ranks.from_zero(next(filter(None, problems), None)) or checkpoint


def _with_manifest(path: Path) -> Checkpoint | str:
    """The checkpoint in a folder, or what is wrong with its manifest. Raises UnknownFormatError."""
    try:
        return with_manifest(path)
    except UnknownFormatError:
        raise
    except CheckpointError as error:
        return str(error)
