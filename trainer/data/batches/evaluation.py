"""The batches of an evaluation."""

from collections.abc import Iterator

import numpy as np

from shardtune.trainer.data.batches.batch_maker import BatchMaker, seeds_of_rows
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.tasks.batch import Batch


def evaluation_batches(split: Split, batch_maker: BatchMaker, *, chunk: int = 10_000) -> Iterator[Batch]:
    """This rank's share of a whole split: each row on exactly one rank, and as many batches on every rank."""
    by_length = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(by_length), chunk):
        rows = by_length[start : start + chunk]
        batches, _ = batch_maker.micro_batches(split, rows, seeds_of_rows(rows))
        yield from batches  # one at a time: the examples of a chunk are never in memory together
