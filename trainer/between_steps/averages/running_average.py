"""The exponential moving average of the weights, which is evaluated and exported in their place (train.ema_decay)."""

from dataclasses import dataclass

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.engine.engine import Engine


@dataclass(kw_only=True)
class RunningAverage(Callback):
    """Adds the weights of each step that has changed them. Comes before the evaluations in the list of callbacks."""

    engine: Engine
    decay: float

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        if done.stats.applied:
            self.engine.average(decay_at(state.step, self.decay))
        return state


def decay_at(step: int, decay: float) -> float:
    """The decay after this many steps, which begins low, so that the average soon forgets the weights that it began
    with: min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage with num_updates."""
    return min(decay, (1 + step) / (10 + step))
