"""The batches of an evaluation."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
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


def row_batches(
    split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000
) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    """As evaluation_batches, with the numbers of each batch's examples, no two of which share a row.

    A batch that only makes the number of passes equal on all ranks has no numbers.
    """
    alone = replace(batch_maker, packing=None)
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        lengths = split.lengths[rows]
        shortest = [np.array([lengths.argmin()])]
        for bins in alone.lay_out(lengths)[alone.ranks.rank]:
            batch = alone.batch(split, rows, seeds_of_rows(rows), bins or shortest).with_each_target()
            numbers = rows[np.concatenate(bins)] if bins else np.zeros(0, dtype=np.int64)
            yield numbers, upload(batch if bins else batch.muted(), alone.ranks.device)
