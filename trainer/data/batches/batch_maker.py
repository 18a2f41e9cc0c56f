"""From examples to this rank's batches: the one place that knows the task, the ranks, the budget and the packing."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.bins import Packing, Share, lay_out, merge, shape_of
from shardtune.trainer.data.batches.cost import TYPICAL, Cost
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import Example
from shardtune.trainer.tasks.masks import Masks, with_masks

NO_LIMIT = 2**40
"""Tokens of a micro-batch that takes a rank's whole share of a step."""
Seeds = Sequence[tuple[int, int]]
"""For each example, the two numbers that seed whatever is random about it (its `draw`)."""


class Examples(Protocol):
    """Examples by their numbers: a Split, or some in memory."""

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each example; shape (examples,)."""

    @property
    def num_targets(self) -> NDArray[np.float64]:
        """Targets of each example, or the sum of their weights; shape (examples,)."""

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        """The examples of these numbers, in this order."""


@dataclass(frozen=True)
class BatchMaker:
    """Distributes examples to the ranks, and makes the batches of this rank."""

    task: Task
    ranks: Ranks
    packing: Packing | None
    """None if each example has a row for itself."""
    micro_batch_tokens: int = NO_LIMIT
    """At most this many tokens in a micro-batch, padding included."""
    masks: Masks = Masks.KEPT
    """Those of batches in which no two examples share a row."""
    cost: Cost = TYPICAL
    """What a pass costs, by which examples are distributed."""

    def micro_batches(self, split: Examples, rows: Positions, seeds: Seeds) -> tuple[Iterator[Batch], int]:
        """This rank's micro-batches of these rows, and the tokens that all ranks run through the model."""
        return self.batches_of(self.lay_out(split.lengths[rows]), split, rows, seeds)

    def batches_of(
        self, shares: Sequence[Share], split: Examples, rows: Positions, seeds: Seeds
    ) -> tuple[Iterator[Batch], int]:
        """As micro_batches, for shares that are known."""
        lengths: NDArray[np.int32] = np.asarray(split.lengths[rows])
        shortest = [np.array([lengths.argmin()])]
        # An empty share runs the shortest row, muted: all ranks need as many passes for their collectives to match.
        batches = (
            self.batch(split, rows, seeds, bins) if bins else self.batch(split, rows, seeds, shortest).muted()
            for bins in shares[self.ranks.rank]
        )
        shapes = [self.shape_of(bins, lengths) for share in shares for bins in share]
        num_padded_tokens = sum(num_rows * longest for num_rows, longest in shapes)
        return (batch.to(self.ranks.device) for batch in batches), num_padded_tokens

    def batch(
        self, split: Examples, rows: Positions, seeds: Seeds, bins: Sequence[Positions], *, masked: bool = False
    ) -> Batch:
        """One batch; each bin has the positions in `rows` of examples that share a row of it.

        What keeps these apart is dropped where no two examples share a row, unless the batch is to be `masked`.
        """
        chosen = np.concatenate(bins)
        examples = [
            {**example, "draw": seeds[at]}
            for at, example in zip(chosen.tolist(), split.examples(rows[chosen]), strict=True)
        ]
        if self.packing is None or not (self.packing.is_flat or masked or len(chosen) > len(bins)):
            return collate_alone(self.task, examples, self.masks)
        ends = np.cumsum([len(positions) for positions in bins]).tolist()
        return collate_packed(self.task, [examples[start:end] for start, end in pairwise([0, *ends])], self.packing)

    def largest_batch(self, split: Examples) -> Batch:
        """As large a batch as there can be: the longest example as often as the budget allows, at least once."""
        longest = int(split.lengths.argmax())
        num_rows = max(1, self.micro_batch_tokens // int(split.lengths[longest]))
        rows = np.full(num_rows, longest, dtype=np.int64)
        bins = [np.array([at]) for at in range(num_rows)]
        return self.batch(split, rows, seeds_of_rows(rows), bins, masked=True).to(self.ranks.device)

    def lay_out(self, lengths: NDArray[np.int32]) -> list[Share]:
        """The share of each rank of examples of these lengths."""
        return lay_out(
            lengths,
            world_size=self.ranks.world_size,
            micro_batch_tokens=self.micro_batch_tokens,
            packing=self.packing,
            cost=self.cost,
        )

    @staticmethod
    def needed(shares: Sequence[Share], lengths: NDArray[np.int32]) -> list[Positions]:
        """The positions of the examples of which the batches of each rank consist, by rank."""
        shortest = [np.array([lengths.argmin()])]
        return [np.unique(np.concatenate([at for bins in share for at in bins or shortest])) for share in shares]

    def shape_of(self, bins: Sequence[Positions], lengths: NDArray[np.int32]) -> tuple[int, int]:
        """(rows, longest) of a micro-batch; (0, 0) of an empty one."""
        return shape_of(bins, lengths, self.packing)


def collate_alone(task: Task, examples: Sequence[Example], masks: Masks) -> Batch:
    """A batch of the examples, each in a row of its own."""
    batch = task.collate(examples)
    return batch if masks is Masks.KEPT else with_masks(batch, [[len(one["input_ids"])] for one in examples], masks)


def collate_packed(task: Task, bins: Sequence[Sequence[Example]], packing: Packing) -> Batch:
    """A batch of the examples, those of a bin in one row, or all of them if the packing is flat."""
    if not packing.is_flat:
        return task.collate([merge(examples, packing.first_position) for examples in bins])
    examples = [example for one_bin in bins for example in one_bin]
    merged = merge(examples, packing.first_position) | {"has_borders": True}
    lengths = [len(example["input_ids"]) for example in examples]
    return with_masks(task.collate([merged]), [lengths], Masks.MARKED if packing.is_marked else Masks.BORDERS)


def seeds_of_step(seed: int, step: int, num_examples: int) -> list[tuple[int, int]]:
    """The seeds of the examples of a step, by their places in it, because a row may occur in it twice."""
    return [((seed << 32) + step + 1, place) for place in range(num_examples)]


def seeds_of_rows(rows: Positions) -> list[tuple[int, int]]:
    """The seeds of examples that are evaluated, which follow from the rows alone; no step of a training has a 0."""
    return [(0, row) for row in rows.tolist()]
