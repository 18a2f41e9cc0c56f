"""When the dev split and the retention sets are evaluated, and which step has the best model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.between_steps.retention.evaluation import Retained, RetentionEvaluation
from shardtune.trainer.checkpoint.manifest import rankable
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.evaluation.evaluate import without_answers


@dataclass(kw_only=True)
class DevEvaluation(Callback):
    """Evaluates dev and the retention sets every `every_steps` steps and after the last one; without either it does
    nothing."""

    evaluator: Evaluator
    dev: Split | None
    every_steps: int
    num_steps: int
    at_start: bool
    """Whether to evaluate before the first step too."""
    is_evaluated: bool
    """Whether the checkpoint that this start resumes from has these metrics; a stop may cut it short."""
    metric: str
    """The dev metric that chooses the best model."""
    lower_is_better: bool
    retention: RetentionEvaluation | None = None
    """None if there are no retention sets."""

    def __post_init__(self) -> None:
        self._last: _Evaluation | None = None

    def begin(self, state: TrainState) -> TrainState:
        if state.step and self.is_due(state) and not self.is_evaluated:
            state = self._evaluate(state)
        if state.step == 0 and self.at_start and self.dev is not None:
            state = replace(state, dev_at_start=without_answers(self.evaluator.evaluate("dev", self.dev, 0)))
        return state if self.retention is None else self.retention.begin(state)

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        return self._evaluate(state) if self.is_due(state) else state

    def rolled_back(self, state: TrainState) -> None:
        self._last = None

    def is_due(self, state: TrainState) -> bool:
        """Whether an evaluation belongs to this step, with or without a dev split."""
        return state.step == self.num_steps or state.step % self.every_steps == 0

    def metrics_at(self, state: TrainState) -> Mapping[str, Any] | None:
        """Dev metrics of this step, without the answers; None if this start has not evaluated it."""
        last = self._last
        return last.dev if last is not None and last.step == state.step else None

    def retained_at(self, state: TrainState) -> Retained | None:
        """What was found of the retention sets at this step; None if this start has not evaluated them."""
        last = self._last
        return last.retained if last is not None and last.step == state.step else None

    def _evaluate(self, state: TrainState) -> TrainState:
        if self.dev is None and self.retention is None:
            return state
        retained = None if self.retention is None else self.retention.evaluate(state)
        dev = None if self.dev is None else without_answers(self.evaluator.evaluate("dev", self.dev, state.step))
        self._last = _Evaluation(state.step, dev, retained)  # only now: a stop may cut either of them short
        excess = 0.0 if retained is None else retained.excess
        state = replace(state, is_beyond_retention=state.is_beyond_retention or excess > 0)
        return state if dev is None else self._with_best(state, dev, excess)

    def _with_best(self, state: TrainState, dev: Mapping[str, Any], excess: float) -> TrainState:
        """The state with this step as the best, if it is: within all limits of retention, or nearer to them; and if
        both are as near, by the metric."""
        value = rankable(dev, self.metric)
        if value is None:
            self.evaluator.reporter.report(
                "alert",
                title="dev gave no number",
                text=f"loss {dev['loss']}, {self.metric} {dev[self.metric]}: this step cannot become the best",
                step=state.step,
            )
            return state
        sign = -1 if self.lower_is_better else 1
        best = state.best_value
        if best is not None and (-excess, sign * value) <= (-state.best_excess, sign * best):
            return state
        return replace(state, best_step=state.step, best_value=value, best_excess=excess)


@dataclass(frozen=True)
class _Evaluation:
    """The evaluation that was done last."""

    step: int
    dev: Mapping[str, Any] | None
    retained: Retained | None
