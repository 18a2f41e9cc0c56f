"""One rank's share of each optimizer step, from the order of the data to tensors."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.trainer.data.batches.bins import Packing, lay_out, merge, shape_of
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.stream import Stream, open_stream
from shardtune.trainer.data.prepare.example_shards import Encoder, Split
from shardtune.trainer.data.prepare.prepare import Prepared, encoder_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import TRUNCATED, Example


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
    waited_s: float = 0.0
    """How long this rank's loop has waited for its batches."""


def training_order(train: Split, recipe: Recipe) -> Order:
    """The order in which the recipe trains on the rows."""
    return Order(
        train.lengths,
        recipe.train.global_batch_size,
        recipe.data.length_window,
        recipe.train.seed,
        sources=train.sources,
        weights=tuple(source.weight for source in recipe.data.sources("train")),
        num_targets=train.num_targets,
        global_batch_tokens=recipe.train.global_batch_tokens,
    )


@dataclass(frozen=True)
class TrainingSteps:
    """All steps of a training."""

    num_steps: int
    steps_per_epoch: int
    num_rows: int
    """Those that there are; of a stream, those that are trained on."""
    begin: Callable[[int, Collection[int]], Iterator[Step]]
    """Collective, and so is each of its steps: this rank's share of the steps from this one on, but for those that are
    left out. Another thread than the one that begins may ask for them."""
    alone: Callable[[int], Iterator[tuple[str | None, Batch]]]
    """Collective: this rank's share of the step of this number, each example in a batch of its own, with the place of
    its row; as many on every rank, and None with what is only there for the number."""


def training_steps_of(
    prepared: Prepared,
    recipe: Recipe,
    task: Task,
    *,
    ranks: Ranks,
    micro_batch_tokens: int,
    packing: Packing | None,
) -> TrainingSteps:
    """Collective: what the recipe trains on, in which steps."""
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    if recipe.data.streaming:
        assert recipe.train.max_steps is not None, "the schema wants it of a stream"
        length = recipe.train.max_steps
        makers = ranks.apart()

        def stream(first: int, left_out: Collection[int]) -> Iterator[Step]:
            return stream_steps(
                open_stream(prepared.facts, prepared.meta["columns"], recipe),
                encoder_of(recipe, task),
                task,
                range(first, length),
                recipe,
                ranks=ranks,
                makers=makers,
                micro_batch_tokens=micro_batch_tokens,
                packing=packing,
                left_out=left_out,
            )

        def alone_in_stream(number: int) -> Iterator[tuple[str | None, Batch]]:
            rows = next(iter(open_stream(prepared.facts, prepared.meta["columns"], recipe).steps(number)))
            by_row = encoder_of(recipe, task).encode(rows, Faults())
            places = [str(row) for row, examples in zip(rows, by_row, strict=True) for _ in examples]
            examples = _Examples(task, [_without_truncated(example) for its in by_row for example in its])
            share = BatchMaker(examples, task, ranks, 1, packing)
            draws = _example_seeds(recipe.train.seed, number, len(places))
            return _alone(share, np.arange(len(places)), draws, places.__getitem__)

        return TrainingSteps(length, length, length * recipe.train.global_batch_size, stream, alone_in_stream)
    order = training_order(train, recipe)
    num_steps = order.num_steps(recipe.train.num_epochs, recipe.train.max_steps)

    def begin(first: int, left_out: Collection[int]) -> Iterator[Step]:
        left = range(first, num_steps)
        return train_steps(
            train,
            task,
            order,
            left,
            ranks=ranks,
            micro_batch_tokens=micro_batch_tokens,
            packing=packing,
            left_out=left_out,
        )

    def alone(number: int) -> Iterator[tuple[str | None, Batch]]:
        rows = order.rows(number)
        share = BatchMaker(train, task, ranks, 1, packing)
        return _alone(share, rows, _example_seeds(order.seed, number, len(rows)), train.place)

    return TrainingSteps(num_steps, order.steps_per_epoch, len(train), begin, alone)


def stream_steps(
    stream: Stream,
    encoder: Encoder,
    task: Task,
    steps: range,
    recipe: Recipe,
    *,
    ranks: Ranks,
    makers: Ranks,
    micro_batch_tokens: int,
    packing: Packing | None,
    left_out: Collection[int] = (),
) -> Iterator[Step]:
    """Collective at every step: this rank's share of these steps of a stream; of those that are left out, nothing.

    Each rank encodes a part of a step's rows; all of them then have all of its examples, and deal them as ever. They
    speak as `makers`, the same ranks in a group in which nothing else is said.
    """
    for number, rows in zip(steps, stream.steps(steps.start), strict=False):
        if number in left_out:
            yield _nothing(number)
            continue
        everyones = makers.gather(encoder.encode(rows[ranks.rank :: ranks.world_size], Faults()))
        by_row = (everyones[at % ranks.world_size][at // ranks.world_size] for at in range(len(rows)))
        encoded = [_without_truncated(example) for examples in by_row for example in examples]
        if not encoded:
            raise DataError(f"data.train: nothing to learn is left of the rows of step {number + 1}: data.max_tokens?")
        examples = _Examples(task, encoded)
        draws = _example_seeds(recipe.train.seed, number, len(encoded))
        share = BatchMaker(examples, task, ranks, micro_batch_tokens, packing)
        micro_batches, num_padded_tokens = share(np.arange(len(encoded)), draws)
        yield Step(
            number,
            list(micro_batches),
            num_samples=len(rows),
            num_targets=float(examples.num_targets.sum()) or 1.0,
            num_tokens=int(examples.lengths.sum()),
            num_padded_tokens=num_padded_tokens,
        )


def _without_truncated(example: Example) -> Example:
    """The example without what is only counted."""
    return {name: value for name, value in example.items() if name != TRUNCATED}


class _Examples:
    """Examples in memory, in the stead of a Split."""

    def __init__(self, task: Task, examples: Sequence[Example]) -> None:
        self._examples = examples
        self.lengths = np.array([task.num_tokens(its) for its in examples], dtype=np.int32)
        self.num_targets = np.array([task.num_targets(its) for its in examples], dtype=np.float64)

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return [self._examples[row] for row in rows.tolist()]


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
    share = BatchMaker(split, task, ranks, micro_batch_tokens, packing)
    for number in steps:
        if number in left_out:
            yield _nothing(number)
            continue
        rows = order.rows(number)
        micro_batches, num_padded_tokens = share(rows, _example_seeds(order.seed, number, len(rows)))
        yield Step(
            number,
            list(micro_batches),
            num_samples=len(rows),
            num_targets=float(split.num_targets[rows].sum()) or 1.0,
            num_tokens=int(split.lengths[rows].sum()),
            num_padded_tokens=num_padded_tokens,
        )


def _nothing(number: int) -> Step:
    """A step that is left out."""
    return Step(number, [], num_samples=0, num_targets=0.0, num_tokens=0, num_padded_tokens=0)


def _alone(
    share: "BatchMaker", rows: Positions, draws: Sequence[tuple[int, int]], place: Callable[[int], str]
) -> Iterator[tuple[str | None, Batch]]:
    """What Course.alone is; `place` says where the row of an example is."""
    ranks = share.ranks
    for start in range(0, len(rows), ranks.world_size):
        at = min(start + ranks.rank, len(rows) - 1)
        batch = share.batch(rows, draws, [np.array([at])]).to(ranks.device)
        yield place(int(rows[at])) if start + ranks.rank < len(rows) else None, batch


def _example_seeds(seed: int, number: int, num_examples: int) -> list[tuple[int, int]]:
    """By the place in the step, for a row may be twice in it; what is evaluated has 0 in the step's stead."""
    return [((seed << 32) + number + 1, place) for place in range(num_examples)]


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
    share = BatchMaker(split, task, ranks, micro_batch_tokens, packing)
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        yield from share(rows, [(0, row) for row in rows.tolist()])[0]  # one at a time: no chunk is ever whole


def largest_batch(split: Split, task: Task, *, ranks: Ranks, micro_batch_tokens: int, packing: Packing | None) -> Batch:
    """As large a batch as there may be: the longest example as often as the budget holds it."""
    longest = int(split.lengths.argmax())
    num_rows = max(1, micro_batch_tokens // int(split.lengths[longest]))
    rows = np.full(num_rows, longest, dtype=np.int64)
    bins = [np.array([at]) for at in range(num_rows)]
    share = BatchMaker(split, task, ranks, micro_batch_tokens, packing)
    return share.batch(rows, [(0, row) for row in rows.tolist()], bins, masked=True).to(ranks.device)


@dataclass(frozen=True)
class BatchMaker:
    """Deals rows to the ranks, and makes batches of this rank's."""

    split: Split | _Examples
    task: Task
    ranks: Ranks
    micro_batch_tokens: int
    packing: Packing | None

    def __call__(self, rows: Positions, draws: Sequence[tuple[int, int]]) -> tuple[Iterator[Batch], int]:
        """This rank's micro-batches of these rows, and the tokens that all ranks run through the model."""
        lengths: NDArray[np.int32] = np.asarray(self.split.lengths[rows])
        shares = lay_out(
            lengths,
            world_size=self.ranks.world_size,
            micro_batch_tokens=self.micro_batch_tokens,
            packing=self.packing,
        )
        shortest = [np.array([lengths.argmin()])]
        batches = (
            self.batch(rows, draws, bins) if bins else self.batch(rows, draws, shortest).muted()
            for bins in shares[self.ranks.rank]
        )
        # An empty share runs the shortest row, muted: ranks must do equally many passes for their collectives to meet.
        shapes = [shape_of(bins, lengths, self.packing) for share in shares for bins in share]
        num_padded_tokens = sum(count * longest for count, longest in shapes)
        return (batch.to(self.ranks.device) for batch in batches), num_padded_tokens

    def batch(
        self, rows: Positions, draws: Sequence[tuple[int, int]], bins: Sequence[Positions], *, masked: bool = False
    ) -> Batch:
        """One batch of the rows at the places in the bins, which share a row of it if rows are packed.

        What tells them apart is left out where no two share one, unless it is `masked`.
        """
        chosen = np.concatenate(bins)
        examples = [
            {**example, "draw": draws[at]}
            for at, example in zip(chosen.tolist(), self.split.examples(rows[chosen]), strict=True)
        ]
        if self.packing is None:
            return self.task.collate(examples)
        first = self.packing.first_position
        if self.packing.is_flat:
            return self.task.collate([merge(examples, first)])
        if len(chosen) == len(bins) and not masked:
            return self.task.collate(examples)
        ends = np.cumsum([len(its) for its in bins]).tolist()
        return self.task.collate([merge(examples[start:end], first) for start, end in pairwise([0, *ends])])
