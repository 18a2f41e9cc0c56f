"""What happens between steps, and when: reports, evaluations, the best model, checkpoints, the wish to stop."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.checkpoint import Checkpoints
from trainer.config.run_dir import STOP
from trainer.config.schema import Recipe
from trainer.data.pack import Packing
from trainer.data.prepare import Split
from trainer.engine import Engine, StepStats
from trainer.evaluate import evaluate
from trainer.generate import questions
from trainer.meter import Meter
from trainer.ranks import Ranks
from trainer.reporter import Reporter
from trainer.state import TrainState
from trainer.steps import Step, evaluation_batches
from trainer.tasks import Task


@dataclass
class Milestones:
    """Called by the loop after every step, on all ranks alike."""

    recipe: Recipe
    run_dir: Path
    num_steps: int
    steps_per_epoch: int
    engine: Engine
    task: Task
    dev: Split | None
    packing: Packing | None
    tokenizer: Any
    checkpoints: Checkpoints
    meter: Meter
    reporter: Reporter
    ranks: Ranks

    def __post_init__(self) -> None:
        self.last_save = time.monotonic()
        self.last_dev: tuple[int, dict[str, Any]] | None = None

    @property
    def best_metric(self) -> str:
        return self.recipe.checkpoint.best_metric or self.task.main_metric

    def stop_requested(self) -> bool:
        """Whether this rank sees a wish to stop."""
        return (self.run_dir / STOP).exists()

    def begin(self, state: TrainState) -> TrainState:
        """Collective: what is due before the first step; returns the state with what was learned of it."""
        if state.step or self.dev is None or not self.recipe.train.eval_at_start:
            return state
        with self.meter.paused():
            return replace(state, dev_at_start=without_answers(self.evaluate("dev", self.dev, 0)))

    def step_done(self, state: TrainState, step: Step, stats: StepStats, *, loss: float) -> TrainState:
        """Collective: whatever is due after this step; returns the state with what was learned of the best model."""
        self.meter.add(step, stats, loss)
        with self.meter.paused():
            self.checkpoints.poll()
        at_end = state.step == self.num_steps
        if at_end or state.step % self.recipe.report.every_steps == 0:
            self.reporter.report(
                "step", step=state.step, epoch=state.step / self.steps_per_epoch, **self.meter.report()
            )
        with self.meter.paused():
            at_epoch_end = state.step % self.steps_per_epoch == 0
            every = self.recipe.train.eval_every_steps
            evaluation_due = at_end or (state.step % every == 0 if every else at_epoch_end)
            if evaluation_due and self.dev is not None:
                state = self._evaluate_dev(state, self.dev)
            if self._save_due(state, at_end=at_end, evaluated=evaluation_due):
                self.save(state)
        return state

    def save(self, state: TrainState) -> None:
        """Collective: begins to save a checkpoint of this state, unless there is one."""
        with self.phase("saving a checkpoint"):
            step, metrics = self.last_dev or (None, {})
            self.checkpoints.save(self.engine, state, without_answers(metrics) if step == state.step else None)
        self.last_save = time.monotonic()

    def finish_saving(self) -> None:
        """Collective: waits until every checkpoint is on disk."""
        with self.phase("saving a checkpoint"):
            self.checkpoints.finish()

    def evaluate(self, name: str, split: Split, step: int) -> dict[str, Any]:
        """Collective: this split's metrics, reported."""
        with self.phase(f"evaluating on {name}"):
            budget = self.recipe.train.micro_batch_tokens
            batches = evaluation_batches(
                split, self.task, ranks=self.ranks, micro_batch_tokens=budget, packing=self.packing
            )
            asked = None
            if (generation := self.task.generation) is not None and (num_rows := generation.num_rows(name)) != 0:
                asked = questions(split, generation, num_rows, ranks=self.ranks, micro_batch_tokens=budget)
            metrics = evaluate(self.engine, self.task, batches, asked, self.tokenizer, ranks=self.ranks)
        self.reporter.report("eval", split=name, step=step, **metrics)
        return metrics

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Says what is going on for as long as it does."""
        self.reporter.report("phase", name=name)
        yield
        self.reporter.report("phase", name=None)

    def _save_due(self, state: TrainState, *, at_end: bool, evaluated: bool) -> bool:
        """Collective, for rank zero's clock is the one that counts."""
        every, minutes = self.recipe.checkpoint.every_steps, self.recipe.checkpoint.every_minutes
        due = at_end or state.best_step == state.step
        if every is None and minutes is None:
            return due or evaluated
        if every is not None:
            due |= state.step % every == 0
        if minutes is not None and not due:
            due = self.ranks.any(self.ranks.is_zero and time.monotonic() - self.last_save >= 60 * minutes)
        return due

    def _evaluate_dev(self, state: TrainState, dev: Split) -> TrainState:
        metrics = self.evaluate("dev", dev, state.step)
        self.last_dev = state.step, metrics
        value = float(metrics[self.best_metric])
        sign = -1 if self.best_metric in self.task.lower_is_better else 1
        if state.best_value is not None and sign * value <= sign * state.best_value:
            return state
        return replace(state, best_step=state.step, best_value=value)


def without_answers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without the answers that an evaluation shows."""
    return {name: value for name, value in metrics.items() if name != "answers"}
