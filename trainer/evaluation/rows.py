"""What each row of a split adds to the metrics: evaluated row by row, gathered on rank 0.

From this follow the metrics, their intervals, and the file by which two runs are compared on the same rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.evaluation.evaluate import loss_and_metrics
from shardtune.trainer.evaluation.generate import Questions, score_answers
from shardtune.trainer.evaluation.intervals import Counts, intervals
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.task import GeneratingTask, summed

Numbers = NDArray[np.int64]
LOSS = ("loss_sum", "num_targets")
"""The scores that do not depend on the task."""


@dataclass(frozen=True)
class Scored:
    """Examples of a split, and what was counted in each."""

    examples: Numbers
    """The number of each example in the split, in rising order; shape (examples,)."""
    scores: Mapping[str, Tensor]
    """Tensors of shape (examples, …) on the CPU, LOSS among them unless the examples were only answered."""

    @classmethod
    def of(cls, parts: Iterable[tuple[Numbers, Mapping[str, Tensor]]]) -> "Scored":
        """The examples of several parts in the order of their numbers; at least one part."""
        numbers, scores = zip(*parts, strict=True)
        examples = np.concatenate(numbers)
        order = torch.from_numpy(np.argsort(examples, kind="stable"))
        joined = {name: torch.cat([part[name] for part in scores]).cpu()[order] for name in scores[0]}
        return cls(examples[order.numpy()], joined)

    def each(self) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """The number of each example, and what the task counts in it alone: tensors of shape (1, …)."""
        counted = {name: score for name, score in self.scores.items() if name not in LOSS}
        for at, example in enumerate(self.examples.tolist()):
            yield example, {name: score[at : at + 1] for name, score in counted.items()}


@dataclass(frozen=True)
class RowScores:
    """What the examples of a split add to its metrics. A long row may have several examples."""

    passed: Scored
    """Every example, with its `loss_sum` and `num_targets`."""
    answered: Scored | None
    """The examples whose answers were generated; None if none were."""
    row_of_example: Numbers
    """The number of the row of each example, counted from 0; shape (examples of the split,)."""

    @property
    def num_rows(self) -> int:
        """How many rows the split has."""
        return int(self.row_of_example.max(initial=-1)) + 1

    def metrics(self, task: Task, times: Counts | None = None) -> dict[str, Any]:
        """The loss and the task's metrics; each row counts as often as `times`, of shape (rows,), says, or once."""
        of_rows = np.ones(self.num_rows, dtype=np.int64) if times is None else times
        totals: dict[str, Tensor] = {}
        for scored in filter(None, (self.passed, self.answered)):
            counted = torch.from_numpy(of_rows[self.row_of_example[scored.examples]])
            ours = {name: score for name, score in scored.scores.items() if name in LOSS}
            totals |= summed(ours, counted)
            totals |= task.totals({name: score for name, score in scored.scores.items() if name not in LOSS}, counted)
        return loss_and_metrics(task, totals)

    def is_right(self, task: Task, name: str) -> list[bool]:
        """For each row, whether what this metric, one of the task's proportions, is a fraction of is true of it."""
        once = torch.ones(1, dtype=torch.int64)
        right = {
            self.row_of_example[example]: task.metrics(task.totals(scores, once))[name] > 0.5
            for example, scores in self.passed.each()
        }
        return [right[row] for row in range(self.num_rows)]


@dataclass(frozen=True)
class Evaluated:
    """A split, evaluated row by row."""

    metrics: dict[str, Any]
    """As those of `evaluate`, and `intervals`, name -> (low, high)."""
    rows: RowScores | None
    """None on other ranks than rank 0."""


def evaluate_rows(
    engine: Inference,
    task: Task,
    split: Split,
    batches: Iterable[tuple[Numbers, Batch]],
    asked: Iterable[Questions] | None,
    tokenizer: Any,
    *,
    ranks: Ranks,
) -> Evaluated:
    """Collective: the metrics of a split with their intervals, the same on any number of ranks."""
    parts, answers = [], []
    answered = None
    with engine.evaluating():
        for numbers, batch in batches:
            output = engine.forward(batch)
            loss = dict(zip(LOSS, (task.loss_of_rows(output, batch).double(), batch.targets_of_rows), strict=True))
            counts = task.score_rows(output, batch) | loss
            parts.append((numbers, {name: count[: len(numbers)] for name, count in counts.items()}))
        if asked is not None:
            assert isinstance(task, GeneratingTask), "only such a task's answers are asked for"
            answered = score_answers(engine, task, asked, tokenizer, ranks=ranks)
            answers = answered.shown
    passed = ranks.to_zero(Scored.of(parts))
    of_answers = [] if answered is None else ranks.to_zero(Scored.of([(answered.rows, answered.scores)]))
    rows = None
    metrics: dict[str, Any] = {}
    if ranks.is_zero:
        rows = RowScores(_together(passed), _together(of_answers) if of_answers else None, split.row_of_example)
        metrics = rows.metrics(task)
        metrics["intervals"] = intervals(lambda times: rows.metrics(task, times), rows.num_rows, task.proportions)
    metrics = ranks.from_zero(metrics)
    return Evaluated({**metrics, **({"answers": answers} if answers else {})}, rows)


def _together(parts: Iterable[Scored]) -> Scored:
    return Scored.of((part.examples, part.scores) for part in parts)
