"""Exact metrics of a whole split, on any number of ranks.

Each row is counted once, by one rank; counts are summed over the ranks, and the formula is applied to their sum.
"""

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor

from trainer.data.batch import Batch
from trainer.engine import Engine
from trainer.generate import Questions, score_answers
from trainer.ranks import Ranks
from trainer.tasks import Task
from trainer.tasks.task import GeneratingTask


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
    totals: dict[str, Tensor] = {}
    answers: list[dict[str, str]] = []
    with engine.evaluating():
        for batch in batches:
            output = engine.forward(batch)
            scores = task.score(output, batch) | {
                "loss_sum": task.loss_sum(output, batch).double(),
                "num_targets": batch.num_targets.double(),
            }
            totals = {name: totals[name] + score for name, score in scores.items()} if totals else scores
        if asked is not None:
            scores, answers = score_answers(engine, cast(GeneratingTask, task), asked, tokenizer, ranks=ranks)
            totals |= scores
    summed = ranks.sum_counts(totals)
    loss = float(summed["loss_sum"]) / (float(summed["num_targets"]) or 1.0)
    return {"loss": loss, **task.metrics(summed), **({"answers": answers} if answers else {})}
