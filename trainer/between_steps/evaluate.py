"""Exact metrics of a whole split, on any number of ranks.

Each row is counted once, by one rank; counts are summed over the ranks, and the formula is applied to their sum.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.between_steps.generate import Questions, score_answers
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.task import GeneratingTask, PerExample, Scores


def evaluate(
    engine: Engine,
    task: Task,
    batches: Iterable[Batch],
    asked: Iterable[Questions] | None,
    tokenizer: Any,
    *,
    ranks: Ranks,
) -> dict[str, Any]:
    """Collective: the mean loss over all targets, the task's metrics, and some answers if any were asked for."""
    totals: dict[str, Tensor | PerExample] = {}
    answers: list[dict[str, str]] = []
    with engine.evaluating():
        for batch in batches:
            output = engine.forward(batch)
            add(totals, task.score(output, batch))
            add(totals, {"loss_sum": task.loss_sum(output, batch).double(), "num_targets": batch.num_targets.double()})
        if asked is not None:
            assert isinstance(task, GeneratingTask), "only such a task's answers are asked for"
            scores, answers = score_answers(engine, task, asked, tokenizer, ranks=ranks)
            totals |= scores
    summed = ranks.sum_counts({name: its for name, its in totals.items() if isinstance(its, Tensor)})
    for name, its in sorted(totals.items()):
        if isinstance(its, PerExample):
            summed[name] = torch.cat(ranks.gather(its.values.cpu()))
    loss = float(summed["loss_sum"]) / (float(summed["num_targets"]) or 1.0)
    return {"loss": loss, **task.metrics(summed), **({"answers": answers} if answers else {})}


def add(totals: dict[str, Tensor | PerExample], scores: Scores) -> None:
    """Adds a batch's scores to the totals, in place."""
    for name, score in scores.items():
        so_far = totals.get(name)
        if isinstance(so_far, PerExample) and isinstance(score, PerExample):
            score = PerExample(torch.cat([so_far.values, score.values]))
        elif isinstance(so_far, Tensor) and isinstance(score, Tensor):
            score = so_far + score
        totals[name] = score
