"""The batches of an evaluation."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
from shardtune.trainer.data.batches.deal import Positions
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.distributed.gpu.upload import upload
from shardtune.trainer.tasks.batch import Batch


def evaluation_batches(split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000) -> Iterator[Batch]:
    """This rank's share of a whole split: each row on exactly one rank, and as many batches on every rank."""
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        batches, _ = batch_maker.micro_batches(split, rows, seeds_of_rows(rows))
        yield from batches  # one at a time: the examples of a chunk are never in memory together


def numbered_batches(
    split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """As evaluation_batches, with the numbers of each batch's examples, no two of which share a row.

    A batch that only makes the number of passes equal on all ranks has no numbers.
    """
    alone = replace(batch_maker, packing=None)
    for rows, bins in _shares(split, alone, chunk):
        shortest = [np.array([split.lengths[rows].argmin()])]
        batch = alone.batch(split, rows, seeds_of_rows(rows), bins or shortest)
        yield _numbers(rows, bins), upload(batch if bins else batch.muted(), alone.ranks.device)


def row_batches(
    split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """As numbered_batches, of which a model with target loss computes the loss of each target."""
    for numbers, batch in numbered_batches(split, batch_maker, chunk=chunk):
        yield numbers, batch.with_each_target()


def numbers_of_rank(split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000) -> NDArray[np.int64]:
    """The numbers of all examples in this rank's numbered_batches."""
    shares = _shares(split, replace(batch_maker, packing=None), chunk)
    return np.concatenate([np.zeros(0, dtype=np.int64), *(_numbers(rows, bins) for rows, bins in shares)])


def _shares(
    split: Split, batch_maker: BatchMaker, chunk: int
) -> Iterator[tuple[NDArray[np.int64], Sequence[Positions]]]:
    """For each batch of this rank, the examples of a chunk of the split, and the positions among them of its own."""
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        for bins in batch_maker.lay_out(split.lengths[rows])[batch_maker.ranks.rank]:
            yield rows, bins


def _numbers(rows: NDArray[np.int64], bins: Sequence[Positions]) -> NDArray[np.int64]:
    return rows[np.concatenate(bins)] if bins else np.zeros(0, dtype=np.int64)
