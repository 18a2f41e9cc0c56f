"""How a checkpoint comes to be, and which of them stay.

Every rank copies its part to host memory, which is all that the training waits for, and writes it aside, into
`.step-N`; the checkpoint counts when rank zero has renamed the folder, after its manifest. What the file system refuses
is an alert: the training goes on, and the checkpoints that are there stay.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from shardtune.run_dir.files import write_atomically
from shardtune.trainer.checkpoint.manifest import (
    LATEST,
    MANIFEST,
    OPTIMIZER,
    WEIGHTS,
    Checkpoint,
    FileRecord,
    Manifest,
    best_first,
    complete_checkpoints,
    record_file,
    render_manifest,
)
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.background import Background
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.snapshot import Fragment, Snapshot, sync, to_host, write_fragments
from shardtune.trainer.reporting.reporter import Reporter

DISK_RESERVE = 64 * 2**20
"""Bytes that a checkpoint leaves free, so that logs and metrics can still be written."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """What a run's checkpoints say of it, and how many of them stay."""

    keep_last: int
    keep_best: int
    asynchronous: bool
    metric: str
    """The dev metric that says which is the best."""
    lower_is_better: bool
    recipe_hash: str
    layout: Mapping[str, Any]
    """world_size, zero_stage (None without DeepSpeed), precision."""
    base: Mapping[str, Any] | None = None
    """The pretrained model whose weights are not among them, if there is one."""


@dataclass(frozen=True)
class _Outcome:
    """What one rank has done of a save."""

    files: Mapping[str, FileRecord] = field(default_factory=dict)
    problem: str | None = None
    """What the file system said, where there is no checkpoint because of it."""
    remark: str | None = None
    """The same, where there is one nevertheless."""


@dataclass
class _Save:
    """A checkpoint that is being written."""

    manifest: Manifest
    """Without its files, until all ranks have written theirs; then rank zero publishes it."""
    began: float
    """The moment at which the training came to it."""
    work: Background[_Outcome]
    stall_s: float = 0.0
    """How long the training has waited for it."""


class Checkpoints:
    """Saves a run's checkpoints, one at a time, and removes those that are no longer kept."""

    def __init__(
        self,
        folder: Path,
        policy: CheckpointPolicy,
        *,
        ranks: Ranks,
        reporter: Reporter,
        newest: int,
        damaged: Iterable[int],
    ) -> None:
        """`newest` is the step that the run goes on from, or 0; `damaged` are those whose checkpoints do not count."""
        self._folder = folder
        self._policy = policy
        self._ranks = ranks
        self._reporter = reporter
        self._newest = newest
        self._damaged = set(damaged)
        self._saving: _Save | None = None
        self._copies: dict[str, Sequence[Fragment]] = {}
        """In host memory: free to be written over once nothing is being saved."""
        if ranks.is_zero:
            for draft in folder.glob(".step-*"):  # of a run that was killed
                shutil.rmtree(draft, ignore_errors=True)
        ranks.barrier()

    def save(self, engine: Engine, state: TrainState, dev_metrics: Mapping[str, Any] | None) -> None:
        """Collective: begins to save this state, once; waits for the one before, if it is still being written.

        `dev_metrics` are those of this very step, if it was evaluated.
        """
        if state.step == self._newest or (self._saving and state.step == self._saving.manifest.step):
            return
        self.finish()
        began = time.monotonic()
        snapshot = engine.snapshot()
        manifest = self._manifest(state, dev_metrics, snapshot)
        draft = self._draft(state.step)
        needed = int(self._ranks.sum(snapshot.num_bytes)[0])
        made = _attempt(lambda: _make_room(draft, needed)) if self._ranks.is_zero else _Outcome()
        if (problem := self._ranks.gather(made)[0].problem) is not None:
            self._not_saved(state.step, problem)
            return
        kinds: dict[str, Sequence[Fragment]] = {WEIGHTS: snapshot.weights, OPTIMIZER: snapshot.states}
        if self._policy.asynchronous:
            kinds = self._copies = {name: to_host(its, self._copies.get(name, ())) for name, its in kinds.items()}
        work = Background(self._ranks, lambda: _attempt(lambda: self._write(draft, kinds)))
        self._saving = _Save(manifest, began, work, stall_s=time.monotonic() - began)
        if not self._policy.asynchronous:
            self.finish()

    def amend(self, state: TrainState, dev_metrics: Mapping[str, Any]) -> None:
        """Collective: adds to the checkpoint of this state's step, the newest, what dev has said of it since."""
        its = Checkpoint(self._folder / f"step-{state.step}")

        def write() -> _Outcome:
            if self._ranks.is_zero:
                manifest = replace(its.manifest, state=state, dev_metrics=dev_metrics)
                write_atomically(its.path / MANIFEST, render_manifest(manifest))
            return _Outcome()

        problem = self._ranks.gather(_attempt(write))[0].problem
        if problem is not None:
            title = f"what dev says of step {state.step} is not in its checkpoint"
            self._reporter.report("alert", title=title, text=problem, step=state.step)

    def poll(self) -> None:
        """Collective: takes what is being written a stage further, if all ranks are done with the last.

        Raises what a writer raised, unless the file system refused: that is an alert.
        """
        save, began = self._saving, time.monotonic()
        if save is None:
            return
        if save.work.is_done():
            self._advance(save, began)
        else:
            save.stall_s += time.monotonic() - began

    def finish(self) -> None:
        """Collective: waits until nothing is being written. Raises as poll."""
        while self._saving is not None:
            self._advance(self._saving, time.monotonic())

    def complete(self) -> list[Checkpoint]:
        """Those that are there and not known to be damaged, oldest first."""
        return [its for its in complete_checkpoints(self._folder) if its.step not in self._damaged]

    def _advance(self, save: _Save, began: float) -> None:
        """Collective: what follows when all ranks are done; the training waits for it, and has since `began`."""
        self._saving = None  # whatever a writer raises, it is raised once
        outcomes = save.work.results()
        problem = next((its.problem for its in outcomes if its.problem), None)
        step = save.manifest.step
        if problem is not None:
            if self._ranks.is_zero:
                shutil.rmtree(self._draft(step), ignore_errors=True)
            self._not_saved(step, problem)
        elif not save.manifest.files:
            save.manifest = manifest = save.manifest.with_files(
                {k: v for its in outcomes for k, v in its.files.items()}
            )
            publish = self._publish if self._ranks.is_zero else lambda _: _Outcome()
            save.work = Background(self._ranks, lambda: _attempt(lambda: publish(manifest)))
            save.stall_s += time.monotonic() - began
            self._saving = save
        else:
            self._newest = step
            self._damaged.discard(step)
            if remark := outcomes[0].remark:
                self._reporter.report("alert", title="old checkpoints stay on the disk", text=remark, step=step)
            self._reporter.report(
                "checkpoint",
                step=step,
                num_bytes=save.manifest.num_bytes,
                stall_s=save.stall_s + time.monotonic() - began,
                written_s=time.monotonic() - save.began,
            )

    def _manifest(self, state: TrainState, dev_metrics: Mapping[str, Any] | None, snapshot: Snapshot) -> Manifest:
        """Collective, for the ranks know different parameters' states."""
        told = self._ranks.gather((dict(snapshot.scalars), list(snapshot.keys)))
        return Manifest(
            state=state,
            recipe_hash=self._policy.recipe_hash,
            layout=self._policy.layout,
            best_metric=self._policy.metric,
            dev_metrics=dev_metrics,
            shapes=snapshot.shapes,
            optimizer_keys=sorted({key for _, keys in told for key in keys}),
            optimizer_scalars={name: its for scalars, _ in told for name, its in scalars.items()},
            loss_scale=snapshot.loss_scale,
            base=self._policy.base,
            written_at=time.time(),
        )

    def _write(self, draft: Path, kinds: Mapping[str, Sequence[Fragment]]) -> _Outcome:
        files = {}
        for kind, fragments in kinds.items():
            name = f"{kind}-{self._ranks.rank:05}-of-{self._ranks.world_size:05}.safetensors"
            write_fragments(draft / name, fragments)
            files[name] = record_file(draft / name)
        return _Outcome(files)

    def _publish(self, manifest: Manifest) -> _Outcome:
        final = self._folder / f"step-{manifest.step}"
        publish_folder(self._draft(manifest.step), final, manifest)
        others = [its for its in self.complete() if its.path != final]
        try:
            for old in superseded([*others, Checkpoint(final)], self._policy):
                shutil.rmtree(old.path)
        except OSError as error:
            return _Outcome(remark=_said(error))
        return _Outcome()

    def _draft(self, step: int) -> Path:
        return self._folder / f".step-{step}"

    def _not_saved(self, step: int, problem: str) -> None:
        stands = f"the newest one is of step {self._newest}" if self._newest else "there is none before it"
        text = f"{problem}. The training goes on without; {stands}"
        self._reporter.report("alert", title=f"the checkpoint of step {step} was not saved", text=text, step=step)


def publish_folder(draft: Path, final: Path, manifest: Manifest) -> None:
    """Makes a checkpoint of a folder that has all its files: it counts from the rename on. Raises OSError."""
    write_atomically(draft / MANIFEST, render_manifest(manifest))
    sync(draft)
    if final.exists():  # damaged, or it would not have been trained again
        aside = draft.with_name(f"{draft.name}.old")
        final.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    draft.rename(final)
    sync(final.parent)
    write_atomically(final.parent / LATEST, final.name)


def superseded(complete: Sequence[Checkpoint], policy: CheckpointPolicy) -> list[Checkpoint]:
    """Those of the complete checkpoints, oldest first, that are neither among the last nor among the best to keep."""
    best = best_first(complete, policy.metric, lower_is_better=policy.lower_is_better)[: policy.keep_best]
    kept = {its.step for its in (*complete[-policy.keep_last :], *best)}
    return [its for its in complete if its.step not in kept]


def _make_room(draft: Path, needed: int) -> _Outcome:
    """An empty folder for the draft. Raises OSError, also if the disk has not room enough."""
    draft.parent.mkdir(exist_ok=True)  # not its parents: they would be made on another disk if theirs had gone
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    free = shutil.disk_usage(draft).free
    if free < needed + DISK_RESERVE:
        draft.rmdir()
        raise OSError(f"{draft.parent} has {free / 1e9:.2f} GB free, and it takes {needed / 1e9:.2f} GB")
    return _Outcome()


def _attempt(work: Callable[[], _Outcome]) -> _Outcome:
    try:
        return work()
    except OSError as error:
        return _Outcome(problem=_said(error))


def _said(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error)
