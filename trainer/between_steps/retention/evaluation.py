"""Evaluates the retention sets: before the first step, at each evaluation on dev, and the best model at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.evaluation.evaluate import without_answers
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.retention.drop import Judge

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Retained:
    """What an evaluation of all sets has found."""

    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    """Those of each set."""
    excess: float = 0.0
    """By how much the set that is furthest beyond its limit exceeds it; 0 if all are within."""


@dataclass(frozen=True)
class RetentionSet:
    """A set, who evaluates it, and how much worse it may become."""

    name: str
    kind: str
    """The kind of its task."""
    fingerprint: str
    """Of its prepared rows."""
    split: Split
    evaluator: Evaluator
    judge: Judge


@dataclass(frozen=True)
class RetentionEvaluation:
    """Evaluates the sets with the model as it is now, and reports a `retention` event for each."""

    sets: Sequence[RetentionSet]
    reporter: Reporter

    def begin(self, state: TrainState) -> TrainState:
        """Collective: evaluates before the first step, which all later evaluations are compared with."""
        if state.step == 0:
            return replace(state, retention_at_start={one.name: self._at_start(one) for one in self.sets})
        late = [one.name for one in self.sets if self._before(one, state) is None]
        if late:
            text = (
                f"retention: {', '.join(late)}: these rows were not evaluated before the first step of this run, so "
                "nothing is known of what the model could do before, and retention.max_drop does not count for them"
            )
            self.reporter.report("notice", text=text)
        return state

    def evaluate(self, state: TrainState) -> Retained:
        """Collective: the metrics of all sets at this step. Raises StopAsked."""
        metrics = {one.name: self._measure(one, state.step) for one in self.sets}
        excesses = [one.judge.excess(self._before(one, state), metrics[one.name]) for one in self.sets]
        return Retained(metrics, max(excesses, default=0.0))

    def results(self, state: TrainState, best_step: int) -> dict[str, dict[str, Any]]:
        """Collective: for results.json, the metrics of each set before the first step, and those of the best model,
        which the engine has, with their intervals."""
        results = {}
        for one in self.sets:
            evaluated = one.evaluator.measure_rows(one.name, one.split, like="dev")
            self._report(one, best_step, evaluated.metrics)
            results[one.name] = {
                "metric": one.judge.metric,
                "lower_is_better": one.judge.lower_is_better,
                "at_start": self._before(one, state),
                "best": without_answers(evaluated.metrics),
            }
        return results

    def _at_start(self, one: RetentionSet) -> dict[str, Any]:
        return {"rows": one.fingerprint, "metrics": self._measure(one, 0)}

    def _before(self, one: RetentionSet, state: TrainState) -> Metrics | None:
        """The metrics of a set before the first step; None if it was not evaluated then, or had other rows."""
        known = state.retention_at_start.get(one.name)
        return known["metrics"] if known is not None and known["rows"] == one.fingerprint else None

    def _measure(self, one: RetentionSet, step: int) -> dict[str, Any]:
        metrics = one.evaluator.measure(one.name, one.split, like="dev")
        self._report(one, step, metrics)
        return without_answers(metrics)

    def _report(self, one: RetentionSet, step: int, metrics: Metrics) -> None:
        judge = one.judge
        known = {"metric": judge.metric, "lower_is_better": judge.lower_is_better}
        self.reporter.report("retention", set=one.name, task=one.kind, step=step, **known, **metrics)
