"""The protocol of whatever happens between steps. To add something: one module beside this one, one line in run.py."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.engine.engine import StepStats


@dataclass(frozen=True)
class StepDone:
    """A step that the engine has just done."""

    before: TrainState
    """The state before the step."""
    step: Step
    stats: StepStats
    loss: float
    """Mean over the targets of the step on all ranks; nan or inf if the step was skipped for it."""
    terms: Mapping[str, float] = field(default_factory=dict)
    """What the objective reports besides, such as the divergence from the pretrained model; means as the loss is."""


class RolledBack(Exception):
    """Training was set back to an earlier step and continues from there."""

    def __init__(self, state: TrainState) -> None:
        super().__init__(f"back at step {state.step}")
        self.state = state


class Callback:
    """Something that happens between steps; each method does nothing unless it is overridden.

    Every method is Collective: all ranks call it at the same point of the training, with the same state. A method that
    returns a state hands it to the callbacks after it in the list.
    """

    def begin(self, state: TrainState) -> TrainState:
        """Called once in a start, before its first step."""
        return state

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        """Called after each step. May raise TrainingError, RolledBack or StopAsked."""
        return state

    def rolled_back(self, state: TrainState) -> None:
        """Called when a callback has set training back to this state."""

    def ends_training(self, state: TrainState) -> bool:
        """Whether training is finished at this state although steps are left.

        Must depend on the state alone, so that all ranks agree and a resumed run decides the same.
        """
        return False

    def finish(self, state: TrainState) -> None:
        """Called once, after the last step of the training; not after a stop."""

    def stop(self, state: TrainState) -> None:
        """Called once when this start ends early because it was asked to stop."""
