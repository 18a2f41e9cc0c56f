"""When the dev split is evaluated, and which step has the best model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardtune.trainer.between_steps.callback import Callback, StepDone
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.checkpoint.manifest import rankable
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.evaluation.evaluate import without_answers


@dataclass(kw_only=True)
class DevEvaluation(Callback):
    """Evaluates dev every `every_steps` steps and after the last one; without a dev split it does nothing."""

    evaluator: Evaluator
    dev: Split | None
    every_steps: int
    num_steps: int
    at_start: bool
    """Whether to evaluate before the first step too."""
    is_evaluated: bool
    """Whether the checkpoint that this start resumes from has dev metrics; a stop may have cut the evaluation short."""
    metric: str
    """The dev metric that chooses the best model."""
    lower_is_better: bool

    def __post_init__(self) -> None:
        self._last: tuple[int, dict[str, Any]] | None = None

    def begin(self, state: TrainState) -> TrainState:
        if self.dev is None:
            return state
        if state.step == 0 and self.at_start:
            return replace(state, dev_at_start=without_answers(self.evaluator.evaluate("dev", self.dev, 0)))
        if state.step and self.is_due(state) and not self.is_evaluated:
            return self._evaluate(state, self.dev)
        return state

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        return self._evaluate(state, self.dev) if self.dev is not None and self.is_due(state) else state

    def rolled_back(self, state: TrainState) -> None:
        self._last = None

    def is_due(self, state: TrainState) -> bool:
        """Whether an evaluation belongs to this step, with or without a dev split."""
        return state.step == self.num_steps or state.step % self.every_steps == 0

    def metrics_at(self, state: TrainState) -> Mapping[str, Any] | None:
        """Dev metrics of this step, without the answers; None if this start has not evaluated it."""
        step, metrics = self._last or (None, {})
        return without_answers(metrics) if step == state.step else None

    def _evaluate(self, state: TrainState, dev: Split) -> TrainState:
        metrics = self.evaluator.evaluate("dev", dev, state.step)
        self._last = state.step, metrics
        value = rankable(metrics, self.metric)
        if value is None:
            self.evaluator.reporter.report(
                "alert",
                title="dev gave no number",
                text=f"loss {metrics['loss']}, {self.metric} {metrics[self.metric]}: this step cannot become the best",
                step=state.step,
            )
            return state
        sign = -1 if self.lower_is_better else 1
        if state.best_value is not None and sign * value <= sign * state.best_value:
            return state
        return replace(state, best_step=state.step, best_value=value)
