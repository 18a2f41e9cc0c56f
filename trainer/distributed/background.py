"""Work that takes long beside what the ranks do together: on a thread of its own, waited for without a time-out.

A rank that waits in a collective for another's disk would be given up by gloo or NCCL after some minutes. Here the
ranks keep asking each other instead.
"""

import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from shardtune.errors import ShardtuneError
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.watchdog import beat

T = TypeVar("T")

POLL_S = 0.02


class Background(Generic[T]):
    """One piece of work on each rank, begun at once."""

    def __init__(self, ranks: Ranks, work: Callable[[], T]) -> None:
        self._ranks = ranks
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[T] = self._pool.submit(work)

    def is_done(self) -> bool:
        """Collective: whether it is done on every rank."""
        return not self._ranks.any(not self._future.done())

    def results(self) -> list[T]:
        """Collective: what it returned on each rank, once it is done on all.

        Raises on every rank what it raised on one: a ShardtuneError as itself, any other as a RuntimeError with its
        traceback.
        """
        while not self.is_done():
            beat()  # a slow disk is no hang; one that never answers holds whoever waits for it, and no signal ends that
            time.sleep(POLL_S)
        self._pool.shutdown()
        failure = self._future.exception()
        told = self._ranks.gather(_Told(failure) if failure else self._future.result())
        for rank, its in enumerate(told):
            if isinstance(its, _Told):
                raise its.error(rank)
        return [its for its in told if not isinstance(its, _Told)]


class _Told:
    """An exception in words that another process understands."""

    def __init__(self, failure: BaseException) -> None:
        self.type = type(failure) if isinstance(failure, ShardtuneError) else RuntimeError
        lines = [str(failure)] if isinstance(failure, ShardtuneError) else traceback.format_exception(failure)
        self.text = "".join(lines)

    def error(self, rank: int) -> Exception:
        return self.type(self.text if issubclass(self.type, ShardtuneError) else f"on rank {rank}:\n{self.text}")


def run_on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Collective: what `work` returned on each rank, however long it takes one of them. Raises as Background does."""
    return Background(ranks, work).results()
