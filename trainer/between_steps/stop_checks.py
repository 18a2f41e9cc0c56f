"""Where all ranks look whether one of them was asked to stop: after each step, and between two batches."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from shardtune.trainer.distributed.lease import Lease
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop, StopAsked
from shardtune.trainer.distributed.watchdog import beat
from shardtune.trainer.tasks.batch import Batch

T = TypeVar("T")


@dataclass
class StopChecks:
    """The stop requests of all ranks, and the heartbeat between batches."""

    stop: Stop
    lease: Lease
    ranks: Ranks
    shape: tuple[int, int] | None = None
    """(rows, longest) of the micro-batch that was started last; None before the first."""

    def requested(self) -> bool:
        """Whether this rank was asked to stop. Raises TakenOverError if another start owns the run directory now."""
        self.lease.check()
        return self.stop.requested

    def between(self, batches: Iterable[T]) -> Iterator[T]:
        """Collective: yields the batches, equally many on every rank; between two, all check for a stop request.

        Each rank sends one message between two batches, to a rank that reads it one batch later, so that none waits
        for another. The request of one rank is known to all after log2(ranks) batches. Raises StopAsked on all ranks.
        """
        poll, number = self.ranks.poll(), 0
        for number, batch in enumerate(batches):
            beat()
            if number > 1 and poll.hear():
                raise StopAsked
            if number:
                poll.ask(self.stop.requested)
            if isinstance(batch, Batch):
                self.shape = batch.shape
            yield batch
        if number and poll.hear():
            raise StopAsked
