"""Exact metrics of a whole split, on any number of ranks.

Each row is counted once, by one rank; counts are summed over the ranks, and the formula is applied to their sum.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.between_steps.generate import Questions, questions, score_answers
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.evaluation import evaluation_batches
from shardtune.trainer.data.batches.prefetch import prefetch
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.reporting.phases import Phases
from shardtune.trainer.reporting.reporter import Reporter
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.task import GeneratingTask, PerExample, Scores


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
        between = self.stop_checks.between
        with self.phases(f"evaluating on {name}"):
            batches = evaluation_batches(split, self.batch_maker)
            asked = None
            if (generation := self.task.generation) is not None and (num_rows := generation.num_rows(name)) != 0:
                asked = between(questions(split, generation, num_rows, self.batch_maker))
            with closing(prefetch(batches)) as ahead:
                prefetched = between(entry.item for entry in ahead)
                metrics = evaluate(self.engine, self.task, prefetched, asked, self.tokenizer, ranks=self.ranks)
        self.reporter.report("eval", split=name, step=step, **metrics)
        return metrics


def evaluate(
    engine: Engine,
    task: Task,
    batches: Iterable[Batch],
    asked: Iterable[Questions] | None,
    tokenizer: Any,
    *,
    ranks: Ranks,
) -> dict[str, Any]:
    """Collective: returns the mean loss over all targets, the task's metrics, and on rank 0 some answers if any are
    asked for."""
    totals: dict[str, Tensor | PerExample] = {}
    answers: list[dict[str, str]] = []
    with engine.evaluating():
        for batch in batches:
            output = engine.forward(batch)
            add(totals, task.score(output, batch))
            num_targets = torch.tensor(batch.num_targets, dtype=torch.float64)
            add(totals, {"loss_sum": task.loss_sum(output, batch), "num_targets": num_targets})
        if asked is not None:
            assert isinstance(task, GeneratingTask), "only such a task's answers are asked for"
            scores, answers = score_answers(engine, task, asked, tokenizer, ranks=ranks)
            totals |= scores
    summed = ranks.sum_counts({name: total for name, total in totals.items() if isinstance(total, Tensor)})
    for name, total in sorted(totals.items()):
        if isinstance(total, PerExample):
            summed[name] = torch.cat(ranks.gather(total.values.cpu()))
    loss = float(summed["loss_sum"]) / (float(summed["num_targets"]) or 1.0)
    return {"loss": loss, **task.metrics(summed), **({"answers": answers} if answers else {})}


def add(totals: dict[str, Tensor | PerExample], scores: Scores) -> None:
    """Adds the scores of a batch to the totals, in place: integers, or in float64."""
    for name, score in scores.items():
        if isinstance(score, Tensor) and score.is_floating_point():
            score = score.double()  # in float32, a count above 2^24 would stand still
        so_far = totals.get(name)
        if isinstance(so_far, PerExample) and isinstance(score, PerExample):
            score = PerExample(torch.cat([so_far.values, score.values]))
        elif isinstance(so_far, Tensor) and isinstance(score, Tensor):
            score = so_far + score
        totals[name] = score


def without_answers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics without the sample answers of an evaluation."""
    return {name: value for name, value in metrics.items() if name != "answers"}
