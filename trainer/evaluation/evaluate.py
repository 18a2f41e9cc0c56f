"""Exact metrics of a whole split, on any number of ranks.

Each row is counted once, by one rank; counts are summed over the ranks, and the formula is applied to their sum.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.engine.objective.objective import KL_TO_BASE
from shardtune.trainer.evaluation.generate import Questions, score_answers
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.task import GeneratingTask, PerExample, Scores

KL_SUM = "kl_sum"
"""The divergence from the pretrained model, summed over the targets."""


def evaluate(
    engine: Inference,
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
            if batch.has_base:
                add(totals, {KL_SUM: output.logits[3]})  # as trainer/model/target_loss.py has it
        if asked is not None:
            assert isinstance(task, GeneratingTask), "only such a task's answers are asked for"
            answered = score_answers(engine, task, asked, tokenizer, ranks=ranks)
            totals |= {name: counts.sum(0) for name, counts in answered.scores.items()}
            answers = answered.shown
    summed = ranks.sum_counts({name: total for name, total in totals.items() if isinstance(total, Tensor)})
    for name, total in sorted(totals.items()):
        if isinstance(total, PerExample):
            summed[name] = torch.cat(ranks.gather(total.values.cpu()))
    return {**loss_and_metrics(task, summed), **({"answers": answers} if answers else {})}


def loss_and_metrics(task: Task, totals: Mapping[str, Tensor]) -> dict[str, Any]:
    """The mean loss over all targets and the task's metrics, from the counts of all rows; and the mean divergence from
    the pretrained model where that was counted."""
    num_targets = float(totals["num_targets"]) or 1.0
    metrics = {"loss": float(totals["loss_sum"]) / num_targets, **task.metrics(totals)}
    return metrics | ({KL_TO_BASE: float(totals[KL_SUM]) / num_targets} if KL_SUM in totals else {})


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
