"""What happens between steps, and when: reports, evaluations, the best model, checkpoints, the wish to stop."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from shardtune.recipe.schema import Recipe
from shardtune.trainer.between_steps.evaluate import evaluate
from shardtune.trainer.between_steps.generate import questions
from shardtune.trainer.between_steps.guard import Guard
from shardtune.trainer.checkpoint.checkpoints import Checkpoints
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop, StopAsked
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.engine.engine import Engine, StepStats
from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.reporting.stragglers import Pace
from shardtune.trainer.setup.micro_batch import Budget
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch

T = TypeVar("T")


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
    batch_maker: BatchMaker
    budget: Budget
    tokenizer: Any
    checkpoints: Checkpoints
    guard: Guard
    meter: Meter
    pace: Pace
    reporter: Reporter
    ranks: Ranks
    lease: Lease
    stop: Stop
    state: TrainState
    """After the last step that was done: what a stop saves."""

    def __post_init__(self) -> None:
        self.last_save = time.monotonic()
        self.last_dev: tuple[int, dict[str, Any]] | None = None
        self.shape: tuple[int, int] | None = None
        """(rows, longest) of the micro-batch that was begun last."""

    @property
    def best_metric(self) -> str:
        return self.recipe.checkpoint.best_metric or self.task.main_metric

    def stop_requested(self) -> bool:
        """Whether this rank sees a wish to stop. Raises CheckpointError if the run directory is another start's now."""
        self.lease.check()
        return self.stop.requested

    def between(self, batches: Iterable[T]) -> Iterator[T]:
        """Collective: the batches, as many on every rank; between two of them all look whether one is asked to stop.

        The answer is waited for a batch later, when all have long given theirs, so that none waits for another. Raises
        StopAsked on all ranks.
        """
        asked: Callable[[], bool] | None = None
        for number, batch in enumerate(batches):
            beat()
            if asked is not None and asked():
                raise StopAsked
            asked = self.ranks.ask_any(self.stop.requested) if number else None
            if isinstance(batch, Batch):
                self.shape = batch.shape
            yield batch
        if asked is not None and asked():
            raise StopAsked

    def begin(self, state: TrainState, *, evaluated: bool) -> TrainState:
        """Collective: what is due before the next step; returns the state with what was learned of it.

        `evaluated` is whether the evaluation that this step may call for has been done: a stop may have cut it short.
        """
        self.state = state
        with self.meter.paused():
            if state.step == 0 and self.dev is not None and self.recipe.train.eval_at_start:
                self.state = replace(state, dev_at_start=without_answers(self.evaluate("dev", self.dev, 0)))
            elif state.step and self.dev is not None and self._evaluation_due(state) and not evaluated:
                self.state = self._evaluate_dev(state, self.dev)
                self.checkpoints.amend(self.state, self._dev_metrics(self.state) or {})
        return self.state

    def step_done(self, state: TrainState, step: Step, stats: StepStats, *, loss: float) -> TrainState:
        """Collective: whatever is due after this step; returns the state with what was learned of it.

        Raises TrainingError or RolledBack, as the guard says, and StopAsked.
        """
        beat()
        self.state = state = self.guard.judge(self.state, state, step, stats, loss)
        self.meter.add(step, stats, loss)
        with self.meter.paused():
            self.checkpoints.poll()
        at_end = state.step == self.num_steps
        if at_end or state.step % self.recipe.report.every_steps == 0:
            self._report_step(state)
        with self.meter.paused():
            evaluation_due = self._evaluation_due(state)
            if evaluation_due and self.dev is not None:
                self.state = state = self._evaluate_dev(state, self.dev)
            if self._save_due(state, at_end=at_end, evaluated=evaluation_due):
                self.save(state)
        return state

    def _report_step(self, state: TrainState) -> None:
        """Collective: what the steps since the last report were like, and which rank the others have waited for."""
        by_rank = self.ranks.gather_numbers(self.meter.compute_s)
        num_steps, numbers = self.meter.num_steps, self.meter.report()
        epoch = state.step / self.steps_per_epoch
        self.reporter.report("step", step=state.step, epoch=epoch, **numbers, **self.pace.numbers(by_rank))
        for its in self.pace.add([num_steps * seconds for seconds in by_rank], num_steps * numbers["step_time_s"]):
            self.reporter.report("alert", title=its.title, text=its.text, step=state.step)

    def save(self, state: TrainState) -> None:
        """Collective: begins to save a checkpoint of this state, unless there is one."""
        self.lease.check()
        with self.phase("saving a checkpoint"):
            self.checkpoints.save(self.engine, state, self._dev_metrics(state))
        self.last_save = time.monotonic()

    def finish_saving(self) -> None:
        """Collective: waits until every checkpoint is on disk."""
        with self.phase("saving a checkpoint"):
            self.checkpoints.finish()

    def evaluate(self, name: str, split: Split, step: int) -> dict[str, Any]:
        """Collective: this split's metrics, reported."""
        with self.phase(f"evaluating on {name}"):
            made = evaluation_batches(split, self.batch_maker)
            asked = None
            if (generation := self.task.generation) is not None and (num_rows := generation.num_rows(name)) != 0:
                asked = questions(split, generation, num_rows, self.batch_maker)
            asked = None if asked is None else self.between(asked)
            with closing(prefetch(made)) as ahead:
                batches = self.between(its.item for its in ahead)
                metrics = evaluate(self.engine, self.task, batches, asked, self.tokenizer, ranks=self.ranks)
        self.reporter.report("eval", split=name, step=step, **metrics)
        return metrics

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Says what is going on for as long as it does."""
        self.reporter.report("phase", name=name)
        yield
        self.reporter.report("phase", name=None)

    def _evaluation_due(self, state: TrainState) -> bool:
        every = self.recipe.train.eval_every_steps or self.steps_per_epoch
        return state.step == self.num_steps or state.step % every == 0

    def _dev_metrics(self, state: TrainState) -> dict[str, Any] | None:
        """Those of this very step."""
        step, metrics = self.last_dev or (None, {})
        return without_answers(metrics) if step == state.step else None

    def _save_due(self, state: TrainState, *, at_end: bool, evaluated: bool) -> bool:
        """Collective, for rank zero's clock is the one that counts."""
        if state.bad_in_a_row and not at_end:  # the one from before the first of them may still be wanted
            return False
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
