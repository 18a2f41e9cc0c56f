"""Saving checkpoints, and removing superseded ones.

Training waits only while every rank copies its part to host memory. The ranks then write into `.step-N` in the
background, and rank 0 writes the manifest and renames the folder: from then on the checkpoint exists. A file system
error is an alert: training continues, and the existing checkpoints stay.
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
from shardtune.trainer.engine.memory.host_room import HostRoom
from shardtune.trainer.engine.snapshot import Fragment, Snapshot, sync, to_host, write_fragments
from shardtune.trainer.reporting.reporter import Reporter

DISK_RESERVE = 64 * 2**20
"""Bytes that a checkpoint must leave free on the disk, so that logs and metrics can still be written."""


@dataclass(frozen=True)
class CheckpointPolicy:
    """How many checkpoints of a run are kept, and what each records about the run."""

    keep_last: int
    keep_best: int
    asynchronous: bool
    metric: str
    """The dev metric that chooses the best checkpoint."""
    lower_is_better: bool
    recipe_hash: str
    layout: Mapping[str, Any]
    """world_size, zero_stage (None without DeepSpeed), precision."""
    base: Mapping[str, Any] | None = None
    """The base model, whose weights are not saved; None where the whole model is trained."""


@dataclass(frozen=True)
class _Outcome:
    """The result of one rank's part of a save."""

    files: Mapping[str, FileRecord] = field(default_factory=dict)
    problem: str | None = None
    """A file system error that prevents the checkpoint."""
    remark: str | None = None
    """A file system error despite which the checkpoint exists."""


@dataclass
class _Save:
    """A checkpoint that is being written."""

    manifest: Manifest
    """Complete on rank 0 alone, which publishes it once all ranks have written their files."""
    began: float
    """The monotonic time at which the save began."""
    work: Background[_Outcome]
    is_written: bool = False
    """Whether all ranks have written their files."""
    stall_s: float = 0.0
    """Seconds that training has waited for it."""


class Checkpoints:
    """Saves a run's checkpoints, one at a time, and removes superseded ones."""

    def __init__(
        self,
        folder: Path,
        policy: CheckpointPolicy,
        *,
        ranks: Ranks,
        reporter: Reporter,
        newest: int,
        damaged: Iterable[int],
        refuse_if_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`newest` is the step that the run resumes from, or 0; `damaged` are the steps of damaged checkpoints.

        `refuse_if_lost` raises TakenOverError if another start owns the run directory by now. Rank 0 calls it right
        before it creates a folder and before it publishes one: a process that stood still may be between any two lines.
        """
        self._refuse_if_lost = refuse_if_lost
        self._folder = folder
        self._policy = policy
        self._ranks = ranks
        self._reporter = reporter
        self._newest = newest
        self._damaged = set(damaged)
        self._saving: _Save | None = None
        self._rooms = {kind: HostRoom(ranks.device) for kind in (WEIGHTS, OPTIMIZER)}
        """Copies in host memory, which may be overwritten when no save is in progress."""
        self._is_slow = False
        if ranks.is_zero:
            for draft in folder.glob(".step-*"):  # of a run that was killed
                shutil.rmtree(draft, ignore_errors=True)
        ranks.barrier()

    def save(
        self,
        engine: Engine,
        state: TrainState,
        dev_metrics: Mapping[str, Any] | None,
        retention: Mapping[str, Any] | None = None,
    ) -> None:
        """Collective: starts saving this state, unless it is saved already; first waits for a save in progress.

        `dev_metrics` are the dev metrics of this step, and `retention` what Manifest.retention is, or None.
        """
        if state.step == self._newest or (self._saving and state.step == self._saving.manifest.step):
            return
        self.finish()
        began = time.monotonic()
        snapshot = engine.snapshot()
        manifest = replace(self._manifest(state, dev_metrics, snapshot), retention=retention)
        draft = self._draft(state.step)
        needed = int(self._ranks.sum(snapshot.num_bytes)[0])
        outcome = _attempt(lambda: self._begin(draft, needed)) if self._ranks.is_zero else _Outcome()
        if (problem := self._ranks.from_zero(outcome.problem)) is not None:
            self._not_saved(state.step, problem)
            return
        kinds: dict[str, Sequence[Fragment]] = {WEIGHTS: snapshot.weights, OPTIMIZER: snapshot.states}
        if self._policy.asynchronous:
            kinds = {kind: to_host(fragments, self._rooms[kind]) for kind, fragments in kinds.items()}
            self._report_slow_rooms()
        work = Background(self._ranks, lambda: _attempt(lambda: self._write(draft, kinds)))
        self._saving = _Save(manifest, began, work, stall_s=time.monotonic() - began)
        if not self._policy.asynchronous:
            self.finish()

    def amend(
        self, state: TrainState, dev_metrics: Mapping[str, Any] | None, retention: Mapping[str, Any] | None = None
    ) -> None:
        """Collective: adds metrics that came after the save to the checkpoint of this state's step, the newest."""
        checkpoint = Checkpoint(self._folder / f"step-{state.step}")

        def write() -> _Outcome:
            if self._ranks.is_zero:
                manifest = replace(checkpoint.manifest, state=state, dev_metrics=dev_metrics, retention=retention)
                write_atomically(checkpoint.path / MANIFEST, render_manifest(manifest))
            return _Outcome()

        problem = self._ranks.from_zero(_attempt(write).problem)
        if problem is not None:
            title = f"the dev metrics of step {state.step} could not be added to its checkpoint"
            self._reporter.report("alert", title=title, text=problem, step=state.step)

    def poll(self) -> None:
        """Collective: advances the save in progress by a stage if all ranks have finished the last stage.

        Raises the exception of a writer, except that a file system error is an alert.
        """
        save, began = self._saving, time.monotonic()
        if save is None:
            return
        if save.work.is_done():
            self._advance(save, began)
        else:
            save.stall_s += time.monotonic() - began

    def finish(self) -> None:
        """Collective: waits for the save in progress. Raises the same as poll."""
        while self._saving is not None:
            self._advance(self._saving, time.monotonic())

    def complete(self) -> list[Checkpoint]:
        """The complete checkpoints that are not known to be damaged, oldest first."""
        return [checkpoint for checkpoint in complete_checkpoints(self._folder) if checkpoint.step not in self._damaged]

    def _advance(self, save: _Save, began: float) -> None:
        """Collective: waits for the current stage and starts the next; training has been waiting since `began`."""
        self._saving = None  # so that a writer's exception is raised once
        outcomes = save.work.results_on_zero()
        problem = self._ranks.from_zero(next((outcome.problem for outcome in outcomes if outcome.problem), None))
        step = save.manifest.step
        if problem is not None:
            if self._ranks.is_zero:
                shutil.rmtree(self._draft(step), ignore_errors=True)
            self._not_saved(step, problem)
        elif not save.is_written:
            save.is_written = True
            save.manifest = manifest = save.manifest.with_files(
                {name: record for outcome in outcomes for name, record in outcome.files.items()}
            )
            publish = self._publish if self._ranks.is_zero else lambda _: _Outcome()
            save.work = Background(self._ranks, lambda: _attempt(lambda: publish(manifest)))
            save.stall_s += time.monotonic() - began
            self._saving = save
        else:
            self._newest = step
            self._damaged.discard(step)
            if outcomes and (remark := outcomes[0].remark):
                self._reporter.report("alert", title="old checkpoints could not be removed", text=remark, step=step)
            self._reporter.report(
                "checkpoint",
                step=step,
                num_bytes=save.manifest.num_bytes,
                stall_s=save.stall_s + time.monotonic() - began,
                written_s=time.monotonic() - save.began,
            )

    def _manifest(self, state: TrainState, dev_metrics: Mapping[str, Any] | None, snapshot: Snapshot) -> Manifest:
        """Collective, because each rank has the optimizer states of other parameters; whole on rank 0 alone."""
        gathered = self._ranks.to_zero((dict(snapshot.scalars), list(snapshot.keys)))
        return Manifest(
            state=state,
            recipe_hash=self._policy.recipe_hash,
            layout=self._policy.layout,
            best_metric=self._policy.metric,
            dev_metrics=dev_metrics,
            shapes=snapshot.shapes,
            optimizer_keys=sorted({key for _, keys in gathered for key in keys}),
            optimizer_scalars={name: values for scalars, _ in gathered for name, values in scalars.items()},
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

    def _begin(self, draft: Path, needed: int) -> _Outcome:
        self._refuse_if_lost()
        return _make_draft(draft, needed)

    def _publish(self, manifest: Manifest) -> _Outcome:
        self._refuse_if_lost()
        final = self._folder / f"step-{manifest.step}"
        publish_folder(self._draft(manifest.step), final, manifest)
        others = [checkpoint for checkpoint in self.complete() if checkpoint.path != final]
        try:
            for old in superseded([*others, Checkpoint(final)], self._policy):
                shutil.rmtree(old.path)
        except OSError as error:
            return _Outcome(remark=_message(error))
        return _Outcome()

    def _report_slow_rooms(self) -> None:
        """Reports once that copying takes longer than it could."""
        was_slow, self._is_slow = self._is_slow, any(room.is_slow for room in self._rooms.values())
        if self._is_slow and not was_slow:
            size = sum(room.num_bytes for room in self._rooms.values())
            text = (
                f"the system refused to page-lock {size / 1e9:.2f} GB of host memory for the copies of checkpoints, so "
                "training waits longer for each; raise ulimit -l, or give the job more memory"
            )
            self._reporter.report("notice", text=text)

    def _draft(self, step: int) -> Path:
        return self._folder / f".step-{step}"

    def _not_saved(self, step: int, problem: str) -> None:
        newest = f"the newest checkpoint is of step {self._newest}" if self._newest else "there is no checkpoint yet"
        text = f"{problem}. Training continues; {newest}"
        self._reporter.report("alert", title=f"the checkpoint of step {step} was not saved", text=text, step=step)


def publish_folder(draft: Path, final: Path, manifest: Manifest) -> None:
    """Turns a folder with all files of a checkpoint into the checkpoint: it exists once renamed. Raises OSError."""
    write_atomically(draft / MANIFEST, render_manifest(manifest))
    sync(draft)
    if final.exists():  # it is damaged: otherwise this step would not have been trained again
        aside = draft.with_name(f"{draft.name}.old")
        final.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    draft.rename(final)
    sync(final.parent)
    write_atomically(final.parent / LATEST, final.name)


def superseded(complete: Sequence[Checkpoint], policy: CheckpointPolicy) -> list[Checkpoint]:
    """The checkpoints that are neither among the last nor among the best to keep; `complete` is oldest first."""
    best = best_first(complete, policy.metric, lower_is_better=policy.lower_is_better)[: policy.keep_best]
    kept = {checkpoint.step for checkpoint in (*complete[-policy.keep_last :], *best)}
    return [checkpoint for checkpoint in complete if checkpoint.step not in kept]


def _make_draft(draft: Path, needed: int) -> _Outcome:
    """Creates an empty draft folder. Raises OSError, also if the disk has less than the needed bytes free."""
    draft.parent.mkdir(exist_ok=True)  # not the parents: if a disk is unmounted, they would be made on another one
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    free = shutil.disk_usage(draft).free
    if free < needed + DISK_RESERVE:
        draft.rmdir()
        raise OSError(f"{draft.parent} has {free / 1e9:.2f} GB free; the checkpoint needs {needed / 1e9:.2f} GB")
    return _Outcome()


def _attempt(work: Callable[[], _Outcome]) -> _Outcome:
    try:
        return work()
    except OSError as error:
        return _Outcome(problem=_message(error))


def _message(error: OSError) -> str:
    return f"{error.strerror} ({error.filename})" if error.filename else str(error)
