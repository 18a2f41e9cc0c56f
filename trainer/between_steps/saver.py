"""When a checkpoint is saved, and when one that is being written moves on."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from shardtune.recipe.sections.checkpoint import CheckpointConfig
from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.between_steps.dev_evaluation import DevEvaluation
from shardtune.trainer.checkpoint.checkpoints import Checkpoints
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.phases import Phases


@dataclass
class Publisher(Callback):
    """Publishes a checkpoint that is written in the background as soon as all ranks have written their part."""

    checkpoints: Checkpoints
    meter: Meter

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        with self.meter.paused():
            self.checkpoints.poll()
        return state


@dataclass(kw_only=True)
class Saver(Callback):
    """Saves checkpoints as the recipe asks, of each best model, of the last step, and on a stop."""

    config: CheckpointConfig
    checkpoints: Checkpoints
    engine: Engine
    dev: DevEvaluation
    phases: Phases
    lease: Lease
    ranks: Ranks

    def __post_init__(self) -> None:
        self._saved_at = time.monotonic()
        self._newest = 0
        """The step that this start resumed from, or that was saved last."""

    def begin(self, state: TrainState) -> TrainState:
        self._newest = state.step
        metrics, retained = self.dev.metrics_at(state), self._retained(state)
        if state.step and (metrics is not None or retained is not None):
            with self.phases.meter.paused():
                self.checkpoints.amend(state, metrics, retained)
        return state

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        with self.phases.meter.paused():
            if self._is_due(state):
                self._save(state)
        return state

    def finish(self, state: TrainState) -> None:
        if state.step != self._newest:
            self._save(state)
        self._wait()

    def stop(self, state: TrainState) -> None:
        self._save(state)
        self._wait()

    def _save(self, state: TrainState) -> None:
        """Collective: begins to save a checkpoint of this state, unless it is saved already."""
        self.lease.check()
        self._newest = state.step
        with self.phases("saving a checkpoint"):
            self.checkpoints.save(self.engine, state, self.dev.metrics_at(state), self._retained(state))
        self._saved_at = time.monotonic()

    def _retained(self, state: TrainState) -> dict[str, Any] | None:
        """What was found of the retention sets at this step, as a manifest has it."""
        retained = self.dev.retained_at(state)
        return None if retained is None else asdict(retained)

    def _wait(self) -> None:
        """Collective: waits until every checkpoint is on disk."""
        with self.phases("saving a checkpoint"):
            self.checkpoints.finish()

    def _is_due(self, state: TrainState) -> bool:
        """Collective, because the clock of rank 0 decides."""
        if state.bad_in_a_row:  # the checkpoint from before the first bad step may still be needed
            return False
        every, minutes = self.config.every_steps, self.config.every_minutes
        due = state.best_step == state.step
        if every is None and minutes is None:
            return due or self.dev.is_due(state)
        if every is not None:
            due |= state.step % every == 0
        if minutes is not None and not due:
            due = self.ranks.any(self.ranks.is_zero and time.monotonic() - self._saved_at >= 60 * minutes)
        return due
