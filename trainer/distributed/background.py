"""Long work on a thread of its own, which the ranks wait for without a time-out.

A rank that waits in a collective for another rank's disk would run into the time-out of gloo or NCCL after some
minutes. Here the ranks keep asking each other instead.
"""

import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar, cast

from shardtune.errors import ShardtuneError
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.watchdog import beat

T = TypeVar("T")

POLL_S = 0.02


class Background(Generic[T]):
    """One piece of work on each rank, started at once."""

    def __init__(self, ranks: Ranks, work: Callable[[], T]) -> None:
        self._ranks = ranks
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[T] = self._pool.submit(work)

    def is_done(self) -> bool:
        """Collective: whether the work is done on every rank."""
        return not self._ranks.any(not self._future.done())

    def results(self) -> list[T]:
        """Collective: waits for all ranks; returns what the work returned on each.

        Raises on every rank what the work raised on one: a ShardtuneError as itself, any other exception as a
        RuntimeError with its traceback.
        """
        return self._ranks.from_zero(self.results_on_zero())

    def results_on_zero(self) -> list[T]:
        """Collective: as `results`, on rank 0; an empty list on the others, which is cheaper."""
        while not self.is_done():
            beat()  # a slow disk is not a hang; a process that waits for one that never answers ends by no signal
            time.sleep(POLL_S)
        self._pool.shutdown()
        failure = self._future.exception()
        outcomes = self._ranks.to_zero(_Failure(failure) if failure else self._future.result())
        failures = ((rank, outcome) for rank, outcome in enumerate(outcomes) if isinstance(outcome, _Failure))
        if (failed := self._ranks.from_zero(next(failures, None))) is not None:
            rank, outcome = failed
            raise outcome.error(rank)
        return [outcome for outcome in outcomes if not isinstance(outcome, _Failure)]


class _Failure:
    """An exception in a form that can be sent to another process."""

    def __init__(self, failure: BaseException) -> None:
        self.type = type(failure) if isinstance(failure, ShardtuneError) else RuntimeError
        lines = [str(failure)] if isinstance(failure, ShardtuneError) else traceback.format_exception(failure)
        self.text = "".join(lines)

    def error(self, rank: int) -> Exception:
        return self.type(self.text if issubclass(self.type, ShardtuneError) else f"on rank {rank}:\n{self.text}")


def run_on_zero(ranks: Ranks, work: Callable[[], T]) -> T:
    """Collective: what `work` returned on rank 0, which alone calls it, however long it takes. Raises the same."""
    value = Background(ranks, work if ranks.is_zero else lambda: None).results_on_zero()
    return cast(T, ranks.from_zero(value[0] if value else None))


def run_on_every_rank(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Collective: returns what `work` returned on each rank, however long. Raises as Background.results does."""
    return Background(ranks, work).results()
