"""What happens between steps, and when: reports, evaluations, the best model, checkpoints, the wish to stop."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer.checkpoint import Checkpoints
from trainer.config.schema import Recipe
from trainer.data.pack import Packing
from trainer.data.shards import Split
from trainer.engine import Engine, StepStats
from trainer.evaluate import evaluate
from trainer.generate import questions
from trainer.lease import Lease
from trainer.meter import Meter
from trainer.model import export_model
from trainer.ranks import Ranks
from trainer.reporter import Reporter
from trainer.state import TrainState
from trainer.steps import Step, evaluation_batches
from trainer.stop import stop_requested
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
    model: Any
    tokenizer: Any
    checkpoints: Checkpoints
    meter: Meter
    reporter: Reporter
    ranks: Ranks
    lease: Lease

    def __post_init__(self) -> None:
        self.saved_step: int | None = None
        self.last_dev: tuple[int, dict[str, Any]] | None = None

    @property
    def best_metric(self) -> str:
        return self.recipe.checkpoint.best_metric or self.task.main_metric

    def stop_requested(self) -> bool:
        """Whether this rank sees a wish to stop. Raises CheckpointError if the run directory is another start's now."""
        self.lease.check()
        return stop_requested(self.run_dir)

    def begin(self, state: TrainState) -> TrainState:
        """Collective: what is due before the first step; returns the state with what was learned of it."""
        if state.step or self.dev is None or not self.recipe.train.eval_at_start:
            return state
        with self.meter.paused():
            return replace(state, dev_at_start=without_answers(self.evaluate("dev", self.dev, 0)))

    def step_done(self, state: TrainState, step: Step, stats: StepStats, *, loss: float) -> TrainState:
        """Collective: whatever is due after this step; returns the state with what was learned of the best model."""
        self.meter.add(step, stats, loss)
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
            every = self.recipe.checkpoint.every_steps
            if at_end or (state.step % every == 0 if every else evaluation_due):
                self.save(state)
        return state

    def save(self, state: TrainState) -> None:
        """Collective: publishes a checkpoint of this state, once."""
        if self.saved_step == state.step:
            return
        self.lease.check()
        with self.phase("saving a checkpoint"):
            self.checkpoints.publish(self.engine, state)
        self.saved_step = state.step

    def export(self, name: str, dev_metrics: Mapping[str, Any] | None = None) -> None:
        """Collective: writes the weights as they are to RUN_DIR/export/NAME, with what dev said of them."""
        with self.phase(f"exporting the {name} model"):
            weights = self.engine.weights()
            if self.ranks.is_zero:
                export_model(self.model, weights, self.tokenizer, self.run_dir / "export" / name, dev_metrics)
            self.ranks.barrier()

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

    def _evaluate_dev(self, state: TrainState, dev: Split) -> TrainState:
        metrics = self.evaluate("dev", dev, state.step)
        self.last_dev = state.step, metrics
        value = float(metrics[self.best_metric])
        sign = -1 if self.best_metric in self.task.lower_is_better else 1
        if state.best_value is not None and sign * value <= sign * state.best_value:
            return state
        self.export("best", without_answers(metrics))
        return replace(state, best_step=state.step, best_value=value)


def without_answers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without the answers that an evaluation shows."""
    return {name: value for name, value in metrics.items() if name != "answers"}
