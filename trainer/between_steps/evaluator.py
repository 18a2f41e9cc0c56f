"""Evaluates splits between steps and at the end, and reports their metrics."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches, row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.evaluation.evaluate import evaluate
from shardtune.trainer.evaluation.generate import Questions, questions
from shardtune.trainer.evaluation.rows import Evaluated, evaluate_rows
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates splits with the model as it is now, and reports their metrics."""

    engine: Engine
    task: Task
    tokenizer: Any
    batch_maker: BatchMaker
    stop_checks: StopChecks
    phases: Phases
    reporter: Reporter
    ranks: Ranks

    def evaluate(self, name: str, split: Split, step: int) -> dict[str, Any]:
        """Collective: reports and returns the metrics of this split. Raises StopAsked."""
        metrics = self.measure(name, split)
        self.reporter.report("eval", split=name, step=step, **metrics)
        return metrics

    def measure(self, name: str, split: Split) -> dict[str, Any]:
        """Collective: as evaluate, but reports nothing."""
        between = self.stop_checks.between
        with (
            self.phases(f"evaluating on {name}"),
            closing(prefetch(evaluation_batches(split, self.batch_maker))) as ahead,
        ):
            batches, asked = between(entry.item for entry in ahead), self._asked(name, split)
            return evaluate(self.engine, self.task, batches, asked, self.tokenizer, ranks=self.ranks)

    def evaluate_rows(self, name: str, split: Split, step: int) -> Evaluated:
        """Collective: as evaluate, with an interval for each metric, and what each row adds. Raises StopAsked."""
        between = self.stop_checks.between
        with self.phases(f"evaluating on {name}"), closing(prefetch(row_batches(split, self.batch_maker))) as ahead:
            batches, asked = between(entry.item for entry in ahead), self._asked(name, split)
            evaluated = evaluate_rows(self.engine, self.task, split, batches, asked, self.tokenizer, ranks=self.ranks)
        self.reporter.report("eval", split=name, step=step, **evaluated.metrics)
        return evaluated

    def _asked(self, name: str, split: Split) -> Iterator[Questions] | None:
        """The prompts of this rank whose answers are scored; None if none are."""
        generation = self.task.generation
        if generation is None or (num_rows := generation.num_rows(name)) == 0:
            return None
        return self.stop_checks.between(questions(split, generation, num_rows, self.batch_maker))
