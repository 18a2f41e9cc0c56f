"""Exact metrics of a whole split, on any number of ranks.

Each row is counted once, by one rank; counts are summed over the ranks, and the formula is applied to their sum.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from trainer.data.batch import Batch
from trainer.engine import Engine
from trainer.ranks import Ranks
from trainer.tasks import Task


def evaluate(engine: Engine, task: Task, batches: Iterable[Batch], *, ranks: Ranks) -> dict[str, Any]:
    """Collective: the mean loss over all targets and the task's metrics."""
    totals: dict[str, Tensor] = {}
    with engine.evaluating():
        for batch in batches:
            output = engine.forward(batch)
            scores = task.score(output, batch) | {
                "loss_sum": task.loss_sum(output, batch).double(),
                "num_targets": batch.targets.sum(),
            }
            totals = {name: totals[name] + score for name, score in scores.items()} if totals else scores
    summed = ranks.sum_counts(totals)
    loss = float(summed.pop("loss_sum") / torch.clamp(summed.pop("num_targets"), min=1))
    return {"loss": loss, **task.metrics(summed)}
