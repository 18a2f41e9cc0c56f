"""The mean of several checkpoints' weights, read as if it were a checkpoint: a part of one tensor at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.snapshot import READ_ELEMENTS, Read, Saved, SavedTensors


class MeanTensors(SavedTensors):
    """The mean of tensors of the same names, computed in float64; of tensors that are no fractions the last one."""

    def __init__(self, every: Sequence[SavedTensors]) -> None:
        """At least one; the last is the newest."""
        super().__init__(())
        self._every = list(every)

    def dtype(self, name: str) -> torch.dtype:
        return self._every[-1].dtype(name)

    def read_together(self, reads: Sequence[Read], ranks: Ranks) -> None:
        for saved in self._every:
            saved.find_together(reads, ranks)
        for read in reads:
            self.read(read.name, read.start, read.into)

    def read(self, name: str, start: int, into: Tensor) -> None:
        if not into.is_floating_point():
            self._every[-1].read(name, start, into)
            return
        for first in range(0, into.numel(), READ_ELEMENTS):
            part = into[first : first + READ_ELEMENTS]
            total = torch.zeros(len(part), dtype=torch.float64)
            values = torch.empty(len(part), dtype=torch.float32)
            for saved in self._every:
                saved.read(name, start + first, values)
                total += values
            part.copy_(total / len(self._every))


def mean_of(checkpoints: Sequence[Checkpoint]) -> Saved:
    """The mean weights of these checkpoints, for an engine to restore. Raises CheckpointError if one is unreadable."""
    newest = checkpoints[-1]
    every = [SavedTensors(checkpoint.files(WEIGHTS), opens_all=False) for checkpoint in checkpoints]
    return Saved(newest.path, MeanTensors(every), None, newest.manifest.shapes, (), {}, {})
