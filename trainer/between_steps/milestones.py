"""When the callbacks are called, and the state that they leave behind."""

from collections.abc import Sequence

from shardtune.trainer.between_steps.callback import Callback, RolledBack, StepDone
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.engine import StepStats


class Milestones:
    """Calls each callback in order. All methods are Collective."""

    def __init__(self, callbacks: Sequence[Callback], state: TrainState, *, num_steps: int) -> None:
        self._callbacks = callbacks
        self._num_steps = num_steps
        self._state = state

    @property
    def state(self) -> TrainState:
        """The state after the last step done, or after a rollback."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether training is finished: no step is left, or a callback ends it."""
        state = self._state
        return state.step >= self._num_steps or any(callback.ends_training(state) for callback in self._callbacks)

    def begin(self) -> None:
        """Before the first step of this start."""
        for callback in self._callbacks:
            self._state = callback.begin(self._state)

    def step_done(self, state: TrainState, step: Step, stats: StepStats, *, loss: float, **terms: float) -> TrainState:
        """After each step: `state` has the step counted; returns it as the callbacks leave it. `terms` are StepDone's.

        Raises TrainingError, RolledBack or StopAsked as a callback does.
        """
        beat()
        done = StepDone(self._state, step, stats, loss, terms)
        try:
            for callback in self._callbacks:
                self._state = state = callback.step_done(state, done)
        except RolledBack as rollback:
            self._state = rollback.state
            for callback in self._callbacks:
                callback.rolled_back(rollback.state)
            raise
        return state

    def finish(self) -> None:
        """After the last step of the training."""
        for callback in self._callbacks:
            callback.finish(self._state)

    def stop(self) -> None:
        """When this start ends early because it was asked to stop."""
        for callback in self._callbacks:
            callback.stop(self._state)
