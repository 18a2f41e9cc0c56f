"""One rank's share of each optimizer step, from the order of the data to tensors."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from trainer.config.schema import Recipe
from trainer.data.batch import Batch, Positions
from trainer.data.order import Order
from trainer.data.pack import Packing, lay_out, shape_of
from trainer.data.prepare import Split
from trainer.ranks import Ranks
from trainer.tasks import Task
from trainer.tasks.causal import merge


@dataclass(frozen=True)
class Step:
    """One optimizer step: this rank's micro-batches, and what all ranks train on together."""

    number: int
    micro_batches: list[Batch]
    """None of a step that is left out."""
    num_samples: int
    num_targets: float
    """The denominator of the step's loss: its targets, or the sum of their weights; 0 only if the step is left out."""
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
    split: Split,
    task: Task,
    order: Order,
    steps: range,
    *,
    ranks: Ranks,
    micro_batch_tokens: int,
    packing: Packing | None,
    left_out: Collection[int] = (),
) -> Iterator[Step]:
    """This rank's share of these steps; of those that are left out, nothing."""
    share = _Sharing(split, task, ranks, micro_batch_tokens, packing)
    for number in steps:
        if number in left_out:
            yield Step(number, [], num_samples=0, num_targets=0.0, num_tokens=0, num_padded_tokens=0)
            continue
        rows = order.rows(number)
        micro_batches, num_padded_tokens = share(rows, _draws(order, number, len(rows)))
        yield Step(
            number,
            micro_batches,
            num_samples=len(rows),
            num_targets=float(split.num_targets[rows].sum()) or 1.0,
            num_tokens=int(split.lengths[rows].sum()),
            num_padded_tokens=num_padded_tokens,
        )


def rows_alone(
    split: Split, task: Task, order: Order, number: int, *, ranks: Ranks, packing: Packing | None
) -> Iterator[tuple[int | None, Batch]]:
    """This rank's share of one step, each row in a batch of its own, with the row's number; as many on every rank.

    None goes with what is only there for the number.
    """
    share = _Sharing(split, task, ranks, 1, packing)
    rows = order.rows(number)
    draws = _draws(order, number, len(rows))
    for start in range(0, len(rows), ranks.world_size):
        place = min(start + ranks.rank, len(rows) - 1)
        batch = share.batch(rows, draws, [np.array([place])]).to(ranks.device)
        yield int(rows[place]) if start + ranks.rank < len(rows) else None, batch


def _draws(order: Order, number: int, num_rows: int) -> list[tuple[int, int]]:
    """By the place in the step, for a row may be twice in it; what is evaluated has 0 in the step's stead."""
    return [((order.seed << 32) + number + 1, place) for place in range(num_rows)]


def evaluation_batches(
    split: Split,
    task: Task,
    *,
    ranks: Ranks,
    micro_batch_tokens: int,
    packing: Packing | None,
    chunk: int = 10_000,
) -> Iterator[Batch]:
    """This rank's share of a whole split, each row on exactly one rank, as many batches on every rank."""
    share = _Sharing(split, task, ranks, micro_batch_tokens, packing)
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        yield from share(rows, [(0, row) for row in rows.tolist()])[0]


@dataclass(frozen=True)
class _Sharing:
    """Deals rows to the ranks, and makes batches of this rank's."""

    split: Split
    task: Task
    ranks: Ranks
    micro_batch_tokens: int
    packing: Packing | None

    def __call__(self, rows: Positions, draws: Sequence[tuple[int, int]]) -> tuple[list[Batch], int]:
        """This rank's micro-batches of these rows, and the tokens that all ranks run through the model."""
        lengths: NDArray[np.int32] = np.asarray(self.split.lengths[rows])
        shares = lay_out(
            lengths,
            world_size=self.ranks.world_size,
            micro_batch_tokens=self.micro_batch_tokens,
            packing=self.packing,
        )
        shortest = [np.array([lengths.argmin()])]
        batches = [
            self.batch(rows, draws, bins) if bins else self.batch(rows, draws, shortest).muted()
            for bins in shares[self.ranks.rank]
        ]
        # An empty share runs the shortest row, muted: ranks must do equally many passes for their collectives to meet.
        shapes = [shape_of(bins, lengths, self.packing) for share in shares for bins in share]
        return [batch.to(self.ranks.device) for batch in batches], sum(count * longest for count, longest in shapes)

    def batch(self, rows: Positions, draws: Sequence[tuple[int, int]], bins: Sequence[Positions]) -> Batch:
        """One batch of the rows at the places in the bins, which share a row of it if rows are packed."""
        chosen = np.concatenate(bins)
        examples = [
            {**example, "draw": draws[at]}
            for at, example in zip(chosen.tolist(), self.split.examples(rows[chosen]), strict=True)
        ]
        if self.packing is None:
            return self.task.collate(examples)
        if self.packing.is_flat:
            return self.task.collate([merge(examples)])
        ends = np.cumsum([len(its) for its in bins]).tolist()
        return self.task.collate([merge(examples[start:end]) for start, end in pairwise([0, *ends])])
