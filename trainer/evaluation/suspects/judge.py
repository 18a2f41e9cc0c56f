"""What a model makes of each row of a split: its loss, and how likely the model takes its labels to be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.evaluation.suspects.confident import Judged
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class JudgedSplit:
    """The examples of a split as a model judges them. A long row may have several examples."""

    examples: Numbers
    """The number of each example; in rising order."""
    loss_sums: NDArray[np.float64]
    """The loss of each example, summed over its targets."""
    num_targets: NDArray[np.float64]
    labels: Judged | None
    """The labels of all examples; None for a task without labels."""


@dataclass(frozen=True)
class _Part:
    examples: Numbers
    losses: NDArray[np.float64]
    """Loss and number of targets; shape (2, examples)."""
    labels: Judged | None


def judge(
    engine: Inference, task: Task, batches: Iterable[tuple[Numbers, Batch]], *, has_labels: bool, ranks: Ranks
) -> JudgedSplit | None:
    """Collective: all examples of a split, on rank 0; None on the others. `batches` are those of `row_batches`."""
    parts = []
    with engine.evaluating():
        for numbers, batch in batches:
            output = engine.forward(batch)
            losses = torch.stack([task.loss_of_rows(output, batch).double(), batch.targets_of_rows])
            labels = judged_labels(output.logits.float(), batch, numbers) if has_labels else None
            parts.append(_Part(numbers, losses[:, : len(numbers)].cpu().numpy(), labels))
    gathered = ranks.to_zero(parts)
    return _together([part for of_rank in gathered for part in of_rank]) if ranks.is_zero else None


def _together(parts: Sequence[_Part]) -> JudgedSplit:
    examples = np.concatenate([part.examples for part in parts])
    order = np.argsort(examples)
    losses = np.concatenate([part.losses for part in parts], axis=1)[:, order]
    found = [part.labels for part in parts if part.labels is not None]
    labels = Judged.joined(found) if found else None
    if labels is not None:
        labels = labels.chosen(np.lexsort((labels.questions, labels.positions, labels.examples)))
    return JudgedSplit(examples[order], losses[0], losses[1], labels)


def judged_labels(logits: Tensor, batch: Batch, numbers: Numbers) -> Judged:
    """The labels in the examples of these numbers, which are the first rows of the batch.

    There are three kinds of heads: one class for a text (labels of shape (rows,), logits of shape (rows, classes)), one
    for each word (labels (rows, longest), logits (rows, longest, classes)), and for each of several labels whether it
    holds (both of shape (rows, labels)), whose classes are no and yes.
    """
    at_targets, places = batch.of_targets(logits), batch.positions.cpu().numpy()
    width = max(1, batch.labels.numel() // batch.labels.shape[0])
    rows, columns = places // width, places % width
    nothing = np.zeros_like(places)
    are_words = logits.ndim == 3
    are_yes_or_no = batch.labels.ndim == 2 and not are_words
    if are_yes_or_no:
        yes = at_targets.sigmoid()
        probabilities = torch.stack([1 - yes, yes], 1)
    else:
        probabilities = at_targets.softmax(-1)
    return Judged(
        examples=numbers[rows] if len(rows) else nothing,
        positions=columns if are_words else nothing,
        questions=columns if are_yes_or_no else nothing,
        given=batch.of_targets(batch.labels).cpu().numpy().astype(np.int64),
        probabilities=probabilities.cpu().numpy(),
    )
