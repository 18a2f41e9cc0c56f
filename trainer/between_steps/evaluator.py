"""Evaluates splits between steps and at the end, and reports their metrics."""

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches, numbered_batches, row_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.evaluation.base_answers import BaseAnswers
from shardtune.trainer.evaluation.evaluate import evaluate
from shardtune.trainer.evaluation.generate import Questions, questions
from shardtune.trainer.evaluation.rows import Evaluated, evaluate_rows
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Evaluates splits with the model as it is now, and reports their metrics."""

    engine: Inference
    task: Task
    tokenizer: Any
    batch_maker: BatchMaker
    stop_checks: StopChecks
    phases: Phases
    reporter: Reporter
    ranks: Ranks
    bases: Mapping[str, BaseAnswers] = field(default_factory=dict)
    """By the name of a split, the pretrained model, from which the divergence is measured there."""

    def evaluate(self, name: str, split: Split, step: int) -> dict[str, Any]:
        """Collective: reports and returns the metrics of this split. Raises StopAsked."""
        metrics = self.measure(name, split)
        self.reporter.report("eval", split=name, step=step, **metrics)
        return metrics

    @contextmanager
    def _batches(self, name: str, split: Split) -> Iterator[Iterator[Batch]]:
        """Collective: this rank's batches of a split, made in the background meanwhile."""
        if (base := self.bases.get(name)) is None:
            with closing(prefetch(evaluation_batches(split, self.batch_maker))) as ahead:
                yield self.stop_checks.between(entry.item for entry in ahead)
        else:
            with closing(prefetch(numbered_batches(split, self.batch_maker))) as numbered:
                yield base.added(self.stop_checks.between(entry.item for entry in numbered))

    def evaluate_rows(self, name: str, split: Split, step: int) -> Evaluated:
        """Collective: as evaluate, with an interval for each metric, and what each row adds. Raises StopAsked."""
        evaluated = self.measure_rows(name, split)
        self.reporter.report("eval", split=name, step=step, **evaluated.metrics)
        return evaluated

    def measure(self, name: str, split: Split, *, like: str | None = None) -> dict[str, Any]:
        """Collective: as evaluate, without reporting the metrics; `like` is the split by whose number of rows answers
        are generated, if it is not this one."""
        with self.phases(f"evaluating on {name}"), self._batches(name, split) as batches:
            asked = self._asked(like or name, split)
            return evaluate(self.engine, self.task, batches, asked, self.tokenizer, ranks=self.ranks)

    def measure_rows(self, name: str, split: Split, *, like: str | None = None) -> Evaluated:
        """Collective: as evaluate_rows, without reporting the metrics; `like` as for measure."""
        between = self.stop_checks.between
        with self.phases(f"evaluating on {name}"), closing(prefetch(row_batches(split, self.batch_maker))) as ahead:
            batches, asked = between(entry.item for entry in ahead), self._asked(like or name, split)
            return evaluate_rows(self.engine, self.task, split, batches, asked, self.tokenizer, ranks=self.ranks)

    def _asked(self, name: str, split: Split) -> Iterator[Questions] | None:
        """The prompts of this rank whose answers are scored; None if none are."""
        generation = self.task.generation
        if generation is None or (num_rows := generation.num_rows(name)) == 0:
            return None
        return self.stop_checks.between(questions(split, generation, num_rows, self.batch_maker))
