"""One rank's share of each optimizer step, from the order of the data to tensors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.config.schema import Recipe
from trainer.data.batch import Batch, Positions, deal, padded_tokens
from trainer.data.order import Order
from trainer.data.prepare import Split
from trainer.ranks import Ranks
from trainer.tasks import Task


@dataclass(frozen=True)
class Step:
    """One optimizer step: this rank's micro-batches, and what all ranks train on together."""

    number: int
    micro_batches: list[Batch]
    num_samples: int
    num_targets: float
    """The denominator of the step's loss: its targets, or the sum of their weights; above 0."""
    num_tokens: int
    """Real tokens, without padding."""
    num_padded_tokens: int
    """Tokens that run through the model, padding included."""


def training_order(train: Split, recipe: Recipe) -> Order:
    """The order in which the recipe trains on the rows."""
    return Order(
        train.lengths,
        recipe.train.global_batch_size,
        recipe.data.length_window,
        recipe.train.seed,
        sources=train.sources,
        weights=tuple(source.weight for source in recipe.data.sources("train")),
    )


def train_steps(
    split: Split, task: Task, order: Order, steps: range, *, ranks: Ranks, micro_batch_tokens: int
) -> Iterator[Step]:
    """This rank's share of these steps."""
    for number in steps:
        rows = order.rows(number)
        share = _share(split, task, rows, ranks=ranks, micro_batch_tokens=micro_batch_tokens)
        yield Step(
            number,
            share.micro_batches,
            num_samples=len(rows),
            num_targets=float(split.num_targets[rows].sum()) or 1.0,
            num_tokens=int(split.lengths[rows].sum()),
            num_padded_tokens=share.num_padded_tokens,
        )


def evaluation_batches(
    split: Split, task: Task, *, ranks: Ranks, micro_batch_tokens: int, chunk: int = 10_000
) -> Iterator[Batch]:
    """This rank's share of a whole split, each row on exactly one rank, as many batches on every rank."""
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        yield from _share(split, task, rows, ranks=ranks, micro_batch_tokens=micro_batch_tokens).micro_batches


class _Share(NamedTuple):
    micro_batches: list[Batch]
    num_padded_tokens: int


def _share(split: Split, task: Task, rows: Positions, *, ranks: Ranks, micro_batch_tokens: int) -> _Share:
    lengths: NDArray[np.int32] = np.asarray(split.lengths[rows])
    shares = deal(lengths, world_size=ranks.world_size, micro_batch_tokens=micro_batch_tokens)
    shortest = rows[[int(lengths.argmin())]]
    batches = [
        (task.collate(split.examples(rows[piece])) if len(piece) else task.collate(split.examples(shortest)).muted())
        for piece in shares[ranks.rank]
    ]
    # An empty piece runs the shortest row, muted: ranks must do equally many passes for their collectives to meet.
    return _Share([batch.to(ranks.device) for batch in batches], sum(padded_tokens(share, lengths) for share in shares))
