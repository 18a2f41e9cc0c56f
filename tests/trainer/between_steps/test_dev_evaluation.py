"""What was evaluated as nan never becomes the best model, whatever its other metrics say."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardtune.trainer.between_steps.dev_evaluation import DevEvaluation
from shardtune.trainer.checkpoint.train_state import TrainState
from tests.support.runs import events, tiny_recipe, train

NAN = math.nan


@dataclass
class Told:
    """An evaluator that is told its metrics, and the reporter that it has."""

    metrics: list[dict[str, Any]]
    alerts: list[str] = field(default_factory=list)

    @property
    def reporter(self) -> "Told":
        return self

    def evaluate(self, name: str, split: Any, step: int) -> dict[str, Any]:
        return self.metrics[step - 1]

    def report(self, event: str, /, **values: Any) -> None:
        assert event == "alert"
        self.alerts.append(values["text"])


def best_steps(metric: str, *metrics: dict[str, Any], lower_is_better: bool = False) -> tuple[list[int | None], Told]:
    """The best step after each evaluation."""
    evaluator, dev, state, best = Told(list(metrics)), object(), TrainState(), []
    evaluation = DevEvaluation(
        evaluator=evaluator,  # type: ignore[arg-type]
        dev=dev,  # type: ignore[arg-type]
        every_steps=1,
        num_steps=len(metrics),
        at_start=False,
        is_evaluated=False,
        metric=metric,
        lower_is_better=lower_is_better,
    )
    for step in range(1, len(metrics) + 1):
        before = TrainState(step=step, best_step=state.best_step, best_value=state.best_value)
        state = evaluation.step_done(before, None)  # type: ignore[arg-type]
        best.append(state.best_step)
    return best, evaluator


@pytest.mark.parametrize("lower_is_better", [False, True])
def test_nan_is_never_the_best_neither_first_nor_later(lower_is_better: bool) -> None:
    values = [NAN, 0.5, NAN, -math.inf, math.inf, 0.5]
    metrics = [{"loss": 1.0, "x": value} for value in values]
    best, evaluator = best_steps("x", *metrics, lower_is_better=lower_is_better)
    assert best == [None, 2, 2, 2, 2, 2]
    assert len(evaluator.alerts) == 4
    assert evaluator.alerts[0] == "loss 1.0, x nan: this step cannot become the best"


def test_a_model_that_computes_nan_is_not_the_best_by_an_accuracy_that_is_finite() -> None:
    metrics = [{"loss": 0.7, "accuracy": 0.5}, {"loss": NAN, "accuracy": 0.9}, {"loss": 0.6, "accuracy": 0.6}]
    assert best_steps("accuracy", *metrics)[0] == [1, 1, 3]


def give_nan_on_dev() -> None:
    from shardtune.trainer.between_steps import evaluator as module

    original = module.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return original(*args, **kwargs) | {"loss": NAN}

    module.evaluate = evaluate


def test_without_a_number_on_dev_the_last_model_is_exported_and_no_metric_is_said_to_have_chosen_it(
    tiny: Path, tmp_path: Path
) -> None:
    recipe = tiny_recipe(tiny, "train.max_steps=2", "train.eval_every_steps=1", "data.test=null")
    ended, reported = train(recipe, tmp_path, world_size=1, before=give_nan_on_dev)
    assert ended == [True]
    assert [event["step"] for event in reported if event["event"] == "alert"] == [1, 2]
    (done,) = events(tmp_path, "done")
    assert (done["best_step"], done["step"], "chosen_by" in done) == (2, 2, False)
