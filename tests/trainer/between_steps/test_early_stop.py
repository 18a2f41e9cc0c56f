"""Training ends when dev has not become better for so many evaluations, in one start or in several."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import ConfigError
from shardtune.trainer.between_steps.early_stop import EarlyStop
from shardtune.trainer.checkpoint.train_state import TrainState
from tests.support.runs import events, tiny_recipe, train
from tests.support.stops import stop_after

EACH_STEP = ("train.num_epochs=4", "train.eval_every_steps=1", "checkpoint.best_metric=loss")


@dataclass
class Told:
    """An evaluation of dev that is told the value of its metric at each step."""

    values: list[float | None]
    lower_is_better: bool = True
    metric: str = "loss"
    texts: list[str] = field(default_factory=list)

    def metrics_at(self, state: TrainState) -> dict[str, Any] | None:
        value = self.values[state.step - 1]
        return None if value is None else {"loss": value}

    def report(self, event: str, /, **values: Any) -> None:
        self.texts.append(values["text"])


def ends_at(patience: int, min_delta: float, *values: float | None, lower_is_better: bool = True) -> tuple[int, Told]:
    """The step at which the training ends, or the number of steps."""
    told, state = Told(list(values), lower_is_better), TrainState()
    stop = EarlyStop(dev=told, patience=patience, min_delta=min_delta, reporter=told)  # type: ignore[arg-type]
    while state.step < len(values) and not stop.ends_training(state):
        before = TrainState(state.step + 1, value_to_beat=state.value_to_beat, without_gain=state.without_gain)
        state = stop.step_done(before, None)  # type: ignore[arg-type]
    stop.finish(state)
    return state.step, told


def test_so_many_evaluations_without_gain_end_it_and_any_gain_begins_the_count_again() -> None:
    step, told = ends_at(2, 0.0, 0.9, None, 0.95, 0.8, 0.8, None, 0.85, 0.1)
    assert step == 7
    assert told.texts == [
        "training ended at step 7: in the last 2 evaluations loss did not get better by more than 0; its best value "
        "was 0.8 (train.patience)"
    ]


def test_a_gain_smaller_than_min_delta_is_none_but_small_gains_add_up() -> None:
    assert ends_at(2, 0.1, 0.9, 0.85, 0.82, 0.7)[0] == 3
    assert ends_at(2, 0.1, 0.9, 0.85, 0.79, 0.78, 0.68)[0] == 5


def test_where_more_is_better_less_is_no_gain_and_nan_never_is() -> None:
    assert ends_at(2, 0.0, 0.5, 0.6, 0.55, math.nan, 0.7, lower_is_better=False)[0] == 4


def get_worse_after(step: int) -> Callable[[], None]:
    """The loss on dev rises from this step on."""

    def before() -> None:
        from shardtune.trainer.between_steps.evaluator import Evaluator

        original = Evaluator.evaluate

        def evaluate(self: Evaluator, name: str, split: Any, at: int) -> dict[str, Any]:
            loss = 1.0 - 0.1 * at if at <= step else 1.0 + at
            return original(self, name, split, at) | ({"loss": loss} if name == "dev" else {})

        Evaluator.evaluate = evaluate  # type: ignore[method-assign]

    return before


@pytest.mark.parametrize("broken_off_at", [None, 2, 3])
def test_a_run_ends_early_with_its_best_model_also_if_it_was_broken_off(
    tiny: Path, tmp_path: Path, broken_off_at: int | None
) -> None:
    recipe = tiny_recipe(tiny, *EACH_STEP, "train.patience=3")

    def broken_off() -> None:
        get_worse_after(2)()
        stop_after(broken_off_at or 0)()

    if broken_off_at is not None:
        assert train(recipe, tmp_path, world_size=1, before=broken_off)[0] == [False]
    assert train(recipe, tmp_path, world_size=2, before=get_worse_after(2))[0] == [True, True]
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["step"], results["best_step"]) == (5, 2)
    (notice,) = [event["text"] for event in events(tmp_path, "notice") if "train.patience" in event["text"]]
    assert notice.startswith("training ended at step 5: in the last 3 evaluations loss did not get better")


@pytest.mark.parametrize(
    ("overrides", "fault"),
    [
        (("train.patience=2", "data.dev=null"), r"train\.patience: no data\.dev to evaluate on"),
        (("train.min_delta=0.1",), r"train\.min_delta: counts only with train\.patience"),
    ],
)
def test_patience_without_dev_and_a_delta_without_patience_are_refused(
    tiny: Path, overrides: tuple[str, ...], fault: str
) -> None:
    with pytest.raises(ConfigError, match=fault):
        tiny_recipe(tiny, *overrides)


@pytest.mark.parametrize("lower_is_better", [True, False])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_gain_in_either_direction_and_the_next_number_is(
    lower_is_better: bool, bad: float
) -> None:
    assert ends_at(2, 0.0, bad, 0.5, bad, bad, 0.5, lower_is_better=lower_is_better)[0] == 4
    assert ends_at(3, 0.0, bad, bad, 0.5, bad, bad, lower_is_better=lower_is_better)[0] == 5


def test_a_finite_accuracy_of_a_model_whose_loss_is_nan_is_no_gain() -> None:
    told = Told([0.5, 0.6, 0.9], lower_is_better=False, metric="accuracy")
    told.metrics_at = lambda state: {"loss": math.nan, "accuracy": 0.1 * state.step}  # type: ignore[method-assign]
    stop, state = EarlyStop(dev=told, patience=2, min_delta=0.0, reporter=told), TrainState()  # type: ignore[arg-type]
    for step in (1, 2):
        state = stop.step_done(TrainState(step, without_gain=state.without_gain), None)  # type: ignore[arg-type]
    assert stop.ends_training(state) and state.value_to_beat is None
