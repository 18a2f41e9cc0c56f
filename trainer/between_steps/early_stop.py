"""Training ends early when dev no longer gets better (train.patience)."""

from dataclasses import dataclass, replace

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.between_steps.dev_evaluation import DevEvaluation
from shardtune.trainer.checkpoint.manifest import rankable
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.reporting.reporter import Reporter


@dataclass(kw_only=True)
class EarlyStop(Callback):
    """Ends the training after `patience` evaluations in a row of which none was better by more than min_delta.

    An evaluation that gives no number is not better. Comes after `dev` in the list of callbacks.
    """

    dev: DevEvaluation
    patience: int
    min_delta: float
    reporter: Reporter

    def begin(self, state: TrainState) -> TrainState:
        return self._judged(state) if state.step else state

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        return self._judged(state)

    def ends_training(self, state: TrainState) -> bool:
        return state.without_gain >= self.patience

    def finish(self, state: TrainState) -> None:
        if self.ends_training(state):
            best = "" if state.value_to_beat is None else f"; its best value was {state.value_to_beat:.6g}"
            text = (
                f"training ended at step {state.step}: in the last {state.without_gain} evaluations {self.dev.metric} "
                f"did not get better by more than {self.min_delta:g}{best} (train.patience)"
            )
            self.reporter.report("notice", text=text)

    def _judged(self, state: TrainState) -> TrainState:
        """The state after the evaluation of this step, if there was one in this start."""
        if (metrics := self.dev.metrics_at(state)) is None:
            return state
        value, before = rankable(metrics, self.dev.metric), state.value_to_beat
        sign = -1 if self.dev.lower_is_better else 1
        if value is not None and (before is None or sign * (value - before) > self.min_delta):
            return replace(state, value_to_beat=value, without_gain=0)
        return replace(state, without_gain=state.without_gain + 1)
