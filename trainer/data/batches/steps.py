"""One rank's share of each optimizer step, from the order of the data to tensors."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.trainer.data.batches.batch_maker import BatchMaker, Examples, Seeds, seeds_of_step
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.data.batches.order import Order
from shardtune.trainer.data.batches.stream import Stream, open_stream
from shardtune.trainer.data.prepare.example_shards import Encoder, Split
from shardtune.trainer.data.prepare.prepare import Prepared, encoder_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import NOTED, TRUNCATED, Example


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
    row_tokens: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Real tokens of each example of all ranks, of shape (examples,)."""
    row_targets: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
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
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    if recipe.data.streaming:
        assert recipe.train.max_steps is not None, "the schema requires it of a stream"
        return StreamSteps(prepared, recipe, recipe.train.max_steps, batch_maker, batch_maker.ranks.apart())
    order = training_order(train, recipe)
    return PreparedSteps(train, order, order.num_steps(recipe.train.num_epochs, recipe.train.max_steps), batch_maker)


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
            yield _step(self.batch_maker, number, self.train, rows, seeds, num_samples=len(rows))

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
    """The same ranks in a group of their own, in which they exchange examples and nothing else."""

    @property
    def steps_per_epoch(self) -> int:
        return self.num_steps

    @property
    def num_rows(self) -> int:
        return self.num_steps * self.recipe.train.global_batch_size

    def begin(self, first: int, skipped: Collection[int]) -> Iterator[Step]:
        return self._steps(self._open(), self._encoder(), range(first, self.num_steps), skipped)

    def _steps(self, stream: Stream, encoder: Encoder, steps: range, skipped: Collection[int]) -> Iterator[Step]:
        """Collective: each rank encodes a part of a step's rows; then all have all examples, and distribute them."""
        ranks = self.batch_maker.ranks
        for number, rows in zip(steps, stream.steps(steps.start), strict=False):
            if number in skipped:
                yield _skipped_step(number)
                continue
            by_rank = self.encoding_ranks.gather(encoder.encode(rows[ranks.rank :: ranks.world_size], Faults()))
            by_row = [by_rank[at % ranks.world_size][at // ranks.world_size] for at in range(len(rows))]
            examples = InMemoryExamples(self.batch_maker.task, by_row)
            count = len(examples.lengths)
            if not count:
                raise DataError(f"no targets are left in the rows of step {number + 1}; raise data.max_tokens")
            seeds = seeds_of_step(self.recipe.train.seed, number, count)
            yield _step(self.batch_maker, number, examples, np.arange(count), seeds, num_samples=len(rows))

    def alone(self, number: int) -> Iterator[tuple[str | None, Batch]]:
        rows: list[Row] = next(self._open().steps(number))
        by_row = self._encoder().encode(rows, Faults())
        locations = [str(row) for row, examples in zip(rows, by_row, strict=True) for _ in examples]
        examples = InMemoryExamples(self.batch_maker.task, by_row)
        seeds = seeds_of_step(self.recipe.train.seed, number, len(locations))
        return _alone(self.batch_maker, examples, np.arange(len(locations)), seeds, locations.__getitem__)

    def _open(self) -> Stream:
        return open_stream(self.prepared.facts, self.prepared.meta["columns"], self.recipe)

    def _encoder(self) -> Encoder:
        return encoder_of(self.recipe, self.batch_maker.task)


class InMemoryExamples:
    """In-memory stand-in for a Split: the examples of some rows."""

    def __init__(self, task: Task, by_row: Sequence[Sequence[Example]]) -> None:
        """TRUNCATED and NOTED, which are only counted when rows are prepared, are dropped from the examples."""
        self._examples: list[Example] = [
            {name: value for name, value in example.items() if name not in (NOTED, TRUNCATED)}
            for examples in by_row
            for example in examples
        ]
        self.lengths = np.array([task.num_tokens(example) for example in self._examples], dtype=np.int32)
        self.num_targets = np.array([task.num_targets(example) for example in self._examples], dtype=np.float64)

    def examples(self, rows: NDArray[np.int64]) -> list[Example]:
        return [self._examples[row] for row in rows.tolist()]


def _step(
    batch_maker: BatchMaker, number: int, split: Examples, rows: Positions, seeds: Seeds, *, num_samples: int
) -> Step:
    """The step that trains on these rows."""
    micro_batches, num_padded_tokens = batch_maker.micro_batches(split, rows, seeds)
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
    for start in range(0, len(rows), ranks.world_size):
        at = min(start + ranks.rank, len(rows) - 1)
        batch = batch_maker.batch(split, rows, seeds, [np.array([at])]).to(ranks.device)
        yield location(int(rows[at])) if start + ranks.rank < len(rows) else None, batch
