"""The best model is one that has kept what it could do before, if there is any; or training ends when one has not."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import ConfigError
from shardtune.trainer.between_steps.dev_evaluation import DevEvaluation
from shardtune.trainer.between_steps.retention.evaluation import Retained
from shardtune.trainer.between_steps.retention_limit import RetentionLimit
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.checkpoint.train_state import TrainState
from tests.support.runs import events, tiny_recipe, train
from tests.support.stops import stop_after


@dataclass
class Told:
    """An evaluation that is told at each step the accuracy on dev, and by how much the limits are exceeded."""

    values: list[tuple[float, float]]
    told: list[tuple[str, str]] = field(default_factory=list)

    @property
    def reporter(self) -> "Told":
        return self

    def report(self, event: str, /, **values: Any) -> None:
        self.told.append((event, values["text"]))

    def begin(self, state: TrainState) -> TrainState:
        return state

    def evaluate(self, *args: Any) -> Any:
        if len(args) == 3:
            return {"loss": 1.0, "accuracy": self.values[args[2] - 1][0]}
        return Retained({"x": {}}, self.values[args[0].step - 1][1])


def ends(*values: tuple[float, float], stops: bool = False) -> tuple[int, int | None, Told]:
    """The step at which training ends, the best step, and what was told."""
    told, state = Told(list(values)), TrainState()
    dev = DevEvaluation(
        evaluator=told,  # type: ignore[arg-type]
        dev=object(),  # type: ignore[arg-type]
        every_steps=1,
        num_steps=len(values),
        at_start=False,
        is_evaluated=False,
        metric="accuracy",
        lower_is_better=False,
        retention=told,  # type: ignore[arg-type]
    )
    limit = RetentionLimit(stops=stops, reporter=told)  # type: ignore[arg-type]
    for step in range(1, len(values) + 1):
        state = TrainState(
            step,
            best_step=state.best_step,
            best_value=state.best_value,
            best_excess=state.best_excess,
            is_beyond_retention=state.is_beyond_retention,
        )
        state = dev.step_done(state, None)  # type: ignore[arg-type]
        if limit.ends_training(state):
            break
    limit.finish(state)
    return state.step, state.best_step, told


def test_the_best_is_chosen_among_those_within_the_limits() -> None:
    step, best, told = ends((0.5, 0.0), (0.9, 0.1), (0.7, 0.0), (0.6, 0.0))
    assert (step, best, told.told) == (4, 3, [])


def test_if_none_is_within_them_it_is_the_one_that_exceeds_them_by_the_least_with_an_alert() -> None:
    step, best, told = ends((0.5, 0.3), (0.9, 0.2), (0.7, 0.1), (0.6, 0.1))
    assert (step, best) == (4, 3)
    assert told.told == [("alert", "the best model is of step 3, which exceeds it by the least: by 0.1")]


def test_training_ends_at_the_first_evaluation_beyond_them() -> None:
    step, best, told = ends((0.5, 0.0), (0.9, 0.2), (0.7, 0.0), stops=True)
    assert (step, best) == (2, 1)
    assert told.told[0][1].startswith("training ended at step 2: what the model could do before has dropped")


def forgets(accuracies: Mapping[int, float]) -> Callable[[], None]:
    """The accuracy on the set at each step; dev gets better with every step."""

    def before() -> None:
        from shardtune.trainer.between_steps.evaluator import Evaluator
        from shardtune.trainer.between_steps.retention.evaluation import RetentionEvaluation

        measure, evaluate = RetentionEvaluation._measure, Evaluator.evaluate
        RetentionEvaluation._measure = lambda self, one, step: (  # type: ignore[method-assign]
            measure(self, one, step) | {"accuracy": accuracies[step]}
        )
        Evaluator.evaluate = lambda self, name, split, step: (  # type: ignore[method-assign]
            evaluate(self, name, split, step) | {"accuracy": step / 100}
        )

    return before


KEPT = {0: 0.9, 1: 0.89, 2: 0.9, 3: 0.5, 4: 0.895, 5: 0.4, 6: 0.3}


@pytest.mark.parametrize(("on_drop", "broken_off_at"), [("pick", None), ("pick", 4), ("stop", 2)])
def test_a_run_exports_the_model_that_has_forgotten_little_also_if_it_was_broken_off(
    tiny: Path, tmp_path: Path, on_drop: str, broken_off_at: int | None
) -> None:
    recipe = tiny_recipe(
        tiny,
        "train.num_epochs=1",
        "train.eval_every_steps=1",
        f"retention.sets={{old: {{task: {{kind: classification}}, data: {tiny}/test.jsonl}}}}",
        "retention.max_drop=0.02",
        f"retention.on_drop={on_drop}",
    )

    def broken_off() -> None:
        forgets(KEPT)()
        stop_after(broken_off_at or 0)()

    if broken_off_at is not None:
        assert train(recipe, tmp_path, world_size=1, before=broken_off)[0] == [False]
    assert train(recipe, tmp_path, world_size=1, before=forgets(KEPT))[0] == [True]
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["step"], results["best_step"]) == ((6, 4) if on_drop == "pick" else (3, 2))
    assert results["retention"]["old"]["at_start"]["accuracy"] == 0.9
    kept = {
        checkpoint.step: checkpoint.manifest.excess for checkpoint in complete_checkpoints(tmp_path / "checkpoints")
    }
    assert kept[results["best_step"]] == 0 and max(kept.values()) > 0.3
    ended = [event for event in events(tmp_path, "notice") if "retention.on_drop" in event["text"]]
    assert len(ended) == (on_drop == "stop")


@pytest.mark.parametrize(
    ("keys", "fault"),
    [
        ({"retention.max_drop": "0.1", "data.dev": "null"}, r"retention\.max_drop: no data\.dev to choose"),
        ({"retention.on_drop": "stop"}, r"on_drop: stop counts only with max_drop"),
        ({"retention": "{max_drop: {x: 1}, sequential: false}"}, r"max_drop: no set is called 'x'"),
        ({"retention.max_drop": "-0.1"}, r"retention\.max_drop=-0\.1': must be at least 0"),
    ],
)
def test_limits_without_a_meaning_are_refused(tiny: Path, keys: dict[str, str], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        tiny_recipe(tiny, *(f"{key}={value}" for key, value in keys.items()))
