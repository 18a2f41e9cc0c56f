"""One rank's share of each optimizer step, from the order of the data to tensors."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shardtune.counted import counted
from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.data.batches.batch_maker import BatchMaker, Examples, Seeds, seeds_of_step
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.data.batches.exchange import StepExamples, deliver, encode_step
from shardtune.trainer.data.batches.lanes import encoders_of
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.stream import StepRows, Stream, open_stream
from shardtune.trainer.data.prepare.example_shards import Encoder, Split, part_of
from shardtune.trainer.data.prepare.prepare import Prepared, encoder_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks.batch import Batch


@dataclass(frozen=True)
class Step:
    """One optimizer step: this rank's micro-batches, and the counts of all ranks together."""

    number: int
    micro_batches: list[Batch]
    """Empty if the step is skipped."""
    num_samples: int
    num_targets: float
    """The denominator of the step's loss: its targets, or the sum of their weights; 0 only if the step is skipped."""
    num_tokens: int
    """Real tokens, without padding."""
    num_padded_tokens: int
    """Tokens that run through the model, padding included."""
    row_tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32), compare=False)
    """Real tokens of each example of all ranks, of shape (examples,)."""
    row_targets: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0), compare=False)
    """Targets of each example, as row_tokens."""
    waited_s: float = 0.0
    """How long the loop of this rank waited for the batches."""


class TrainingSteps(Protocol):
    """All steps of a training."""

    @property
    def num_steps(self) -> int:
        """The steps of the whole training."""

    @property
    def steps_per_epoch(self) -> int:
        """The steps of an epoch."""

    @property
    def num_rows(self) -> int:
        """The training rows that exist; of a stream, those that are trained on."""

    def begin(self, first: int, skipped: Collection[int]) -> Iterator[Step]:
        """Collective, and so is each of the steps: this rank's share of the steps from `first` on.

        Skipped steps have no micro-batches. Another thread than the caller's may iterate.
        """

    def alone(self, number: int) -> Iterator[tuple[str | None, Batch]]:
        """Collective: this rank's share of a step, each example in a batch of its own, with the location of its row.

        As many on every rank; the location is None for a batch that only fills up the number.
        """


def training_steps_of(prepared: Prepared, recipe: Recipe, batch_maker: BatchMaker) -> TrainingSteps:
    """Collective: the steps in which the recipe trains."""
    train = training_split(prepared, recipe)
    if recipe.data.streaming:
        assert recipe.train.max_steps is not None, "the schema requires it of a stream"
        encoding_ranks, searching_ranks = (batch_maker.ranks.apart() for _ in range(2))
        return StreamSteps(prepared, recipe, recipe.train.max_steps, batch_maker, encoding_ranks, searching_ranks)
    if len(train) < batch_maker.ranks.world_size:
        raise DataError(
            f"data.fraction={recipe.data.fraction:g} leaves {counted(len(train), 'training row')} for "
            f"{counted(batch_maker.ranks.world_size, 'rank')}; raise it, or lower job.ranks"
        )
    order = training_order(train, recipe)
    return PreparedSteps(train, order, order.num_steps(recipe.train.num_epochs, recipe.train.max_steps), batch_maker)


def training_split(prepared: Prepared, recipe: Recipe) -> Split:
    """The examples that the recipe trains on."""
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    return part_of(train, recipe.data.fraction)


def part_note(recipe: Recipe, num_rows: int) -> str:
    """What data.fraction leaves, in words."""
    return f"data.fraction: trains on {counted(num_rows, 'row')}, {recipe.data.fraction:g} of the training rows"


def training_order(train: Split, recipe: Recipe) -> Order:
    """The order in which the recipe trains on the rows."""
    return Order(
        train.lengths,
        recipe.train.global_batch_size,
        recipe.length_window,
        recipe.train.seed,
        sources=train.sources,
        weights=tuple(source.weight for source in recipe.data.sources("train")),
        num_targets=train.num_targets,
        global_batch_tokens=recipe.train.global_batch_tokens,
    )


@dataclass(frozen=True)
class PreparedSteps:
    """The steps of a training on prepared rows."""

    train: Split
    order: Order
    num_steps: int
    batch_maker: BatchMaker

    @property
    def steps_per_epoch(self) -> int:
        return self.order.steps_per_epoch

    @property
    def num_rows(self) -> int:
        return len(self.train)

    def begin(self, first: int, skipped: Collection[int]) -> Iterator[Step]:
        for number in range(first, self.num_steps):
            if number in skipped:
                yield _skipped_step(number)
                continue
            rows = self.order.rows(number)
            seeds = seeds_of_step(self.order.seed, number, len(rows))
            made = self.batch_maker.micro_batches(self.train, rows, seeds)
            yield _step(number, self.train, rows, made, num_samples=len(rows))

    def alone(self, number: int) -> Iterator[tuple[str | None, Batch]]:
        rows = self.order.rows(number)
        seeds = seeds_of_step(self.order.seed, number, len(rows))
        return _alone(self.batch_maker, self.train, rows, seeds, self.train.place)


@dataclass(frozen=True)
class StreamSteps:
    """The steps of a training on streamed rows; its only epoch is the whole training."""

    prepared: Prepared
    recipe: Recipe
    num_steps: int
    batch_maker: BatchMaker
    encoding_ranks: Ranks
    """The same ranks in a group of their own, in which the thread that makes steps exchanges rows and examples."""
    searching_ranks: Ranks
    """Another such group, for `alone`, because that thread may be making a step at the same time."""

    @property
    def steps_per_epoch(self) -> int:
        return self.num_steps

    @property
    def num_rows(self) -> int:
        return self.num_steps * self.recipe.train.global_batch_size

    def begin(self, first: int, skipped: Collection[int]) -> Iterator[Step]:
        stream = self._open(self.encoding_ranks)
        return self._steps(stream, self._encoder(), range(first, self.num_steps), skipped)

    def _steps(self, stream: Stream, encoder: Encoder, steps: range, skipped: Collection[int]) -> Iterator[Step]:
        """Collective: each rank encodes a part of a step's rows, and gets the examples of its share of the step."""
        for number, rows in zip(steps, stream.steps(steps.start), strict=False):
            if number in skipped:
                yield _skipped_step(number)
                continue
            examples = self._encoded(number, rows, encoder, self.encoding_ranks)
            shares = self.batch_maker.lay_out(examples.lengths)
            needed = self.batch_maker.needed(shares, examples.lengths)
            examples = replace(examples, held=deliver(self.encoding_ranks, examples.held, needed))
            numbers = np.arange(len(examples.lengths))
            seeds = seeds_of_step(self.recipe.train.seed, number, len(numbers))
            made = self.batch_maker.batches_of(shares, examples, numbers, seeds)
            yield _step(number, examples, numbers, made, num_samples=len(rows.readers))

    def alone(self, number: int) -> Iterator[tuple[str | None, Batch]]:
        ranks = self.searching_ranks
        rows = next(self._open(ranks).steps(number))
        examples = self._encoded(number, rows, self._encoder(), ranks)
        numbers = np.arange(len(examples.lengths))
        own = [_alone_on(rank, ranks.world_size, len(numbers)) for rank in range(ranks.world_size)]
        places = deliver(ranks, examples.places, own)
        examples = replace(examples, held=deliver(ranks, examples.held, own))
        seeds = seeds_of_step(self.recipe.train.seed, number, len(numbers))
        return _alone(self.batch_maker, examples, numbers, seeds, places.__getitem__)

    def _encoded(self, number: int, rows: StepRows, encoder: Encoder, ranks: Ranks) -> StepExamples:
        """Collective: the examples of the step, each held by the rank that has encoded it.

        Raises DataError on all ranks alike if a row is bad, or if there are no examples.
        """
        own = rows.own
        encoders = encoders_of(rows.readers, ranks.world_size)
        if (encoders != rows.readers).any():
            own = deliver(ranks, own, [np.flatnonzero(encoders == rank) for rank in range(ranks.world_size)])
        examples = encode_step(own, encoder, self.batch_maker.task, ranks)
        if not len(examples.lengths):
            raise DataError(f"no targets are left in the rows of step {number + 1}; raise data.max_tokens")
        return examples

    def _open(self, ranks: Ranks) -> Stream:
        return open_stream(self.prepared.facts, self.prepared.meta["columns"], self.recipe, ranks)

    def _encoder(self) -> Encoder:
        return encoder_of(self.recipe, self.batch_maker.task)


def _step(
    number: int, split: Examples, rows: Positions, made: tuple[Iterator[Batch], int], *, num_samples: int
) -> Step:
    """The step that trains on these rows, of which BatchMaker.micro_batches has made the batches."""
    micro_batches, num_padded_tokens = made
    return Step(
        number,
        list(micro_batches),
        num_samples=num_samples,
        num_targets=float(split.num_targets[rows].sum()) or 1.0,
        num_tokens=int(split.lengths[rows].sum()),
        num_padded_tokens=num_padded_tokens,
        row_tokens=split.lengths[rows],
        row_targets=split.num_targets[rows],
    )


def _skipped_step(number: int) -> Step:
    return Step(number, [], num_samples=0, num_targets=0.0, num_tokens=0, num_padded_tokens=0)


def _alone(
    batch_maker: BatchMaker, split: Examples, rows: Positions, seeds: Seeds, location: Callable[[int], str]
) -> Iterator[tuple[str | None, Batch]]:
    """TrainingSteps.alone of these rows; `location` says where a row was written."""
    ranks = batch_maker.ranks
    for number, at in enumerate(_alone_on(ranks.rank, ranks.world_size, len(rows))):
        batch = batch_maker.batch(split, rows, seeds, [np.array([at])]).to(ranks.device)
        is_own = number * ranks.world_size + ranks.rank < len(rows)
        yield location(int(rows[at])) if is_own else None, batch


def _alone_on(rank: int, world_size: int, count: int) -> Positions:
    """Which of so many examples a rank has in `alone`; the last one fills up the number."""
    return np.minimum(np.arange(rank, -(-count // world_size) * world_size, world_size), count - 1)
