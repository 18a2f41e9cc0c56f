"""A callback is one class: it sees every step, hands its state on, and can roll back or end the training."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from shardtune.trainer.between_steps.callback import Callback, RolledBack, StepDone
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.engine.engine import StepStats
from tests.support.runs import events, tiny_recipe, train
from tests.support.stops import stop_after


@dataclass
class EndsAt(Callback):
    step: int

    def ends_training(self, state: TrainState) -> bool:
        return state.step >= self.step


def with_callback(callback: Callback) -> Callable[[], None]:
    """Adds a callback to the end of the list, in this process."""

    def before() -> None:
        init = Milestones.__init__

        def longer(self: Milestones, callbacks: Sequence[Callback], *args: Any, **kwargs: Any) -> None:
            init(self, [*callbacks, callback], *args, **kwargs)

        Milestones.__init__ = longer  # type: ignore[method-assign,assignment]

    return before


def test_a_callback_that_ends_the_training_early_leaves_a_finished_run(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.num_epochs=2", "report.every_steps=2", "checkpoint.every_steps=4")
    ended, reported = train(recipe, tmp_path, world_size=2, before=with_callback(EndsAt(3)))
    assert ended == [True, True]
    assert [event["step"] for event in reported if event["event"] == "step"] == [2, 3]
    assert [checkpoint.step for checkpoint in complete_checkpoints(tmp_path / "checkpoints")] == [3]
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 3


def test_a_run_that_is_stopped_where_a_callback_ends_it_trains_no_further(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "train.num_epochs=2", "data.dev=null")

    def both() -> None:
        with_callback(EndsAt(3))()
        stop_after(3)()

    assert train(recipe, tmp_path, world_size=1, before=both)[0] == [False]
    assert train(recipe, tmp_path, world_size=1, before=with_callback(EndsAt(3)))[0] == [True]
    assert [event["step"] for event in events(tmp_path, "step")] == [1, 2, 3]
    assert json.loads((tmp_path / "results.json").read_text())["step"] == 3


@dataclass
class Recorder(Callback):
    """Notes the step of the best model that it is handed."""

    seen: list[tuple[str, int, int | None]] = field(default_factory=list)

    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        self.seen.append(("done", done.before.step, state.best_step))
        return state

    def rolled_back(self, state: TrainState) -> None:
        self.seen.append(("rolled back", state.step, state.best_step))


class MarksBest(Callback):
    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        return replace(state, best_step=state.step)


class RollsBackAt3(Callback):
    def step_done(self, state: TrainState, done: StepDone) -> TrainState:
        if state.step == 3:
            raise RolledBack(TrainState(step=1))
        return state


def test_each_callback_is_handed_the_state_that_the_one_before_it_returned() -> None:
    first, last = Recorder(), Recorder()
    milestones = Milestones([first, MarksBest(), RollsBackAt3(), last], TrainState(), num_steps=4)

    def do_step() -> None:
        step = Step(milestones.state.step, [], 0, 0.0, 0, 0)
        milestones.step_done(milestones.state.after(step), step, StepStats(0.0, 0.0, True), loss=0.0)

    do_step()
    do_step()
    with pytest.raises(RolledBack):
        do_step()
    assert milestones.state == TrainState(step=1)
    assert first.seen == [("done", 0, None), ("done", 1, 1), ("done", 2, 2), ("rolled back", 1, None)]
    assert last.seen == [("done", 0, 1), ("done", 1, 2), ("rolled back", 1, None)]
    assert not milestones.is_over
