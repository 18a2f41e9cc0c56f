"""Makes the batches of the next steps, or of an evaluation, on a thread of its own, during this one's."""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

DEPTH = 2
"""So many steps, or batches, are made ahead."""
LEAVE_S = 10.0
"""How long a training that ends early waits for the steps that are being made: those of a stream are made together with
the other ranks, and one that has failed does not come."""


@dataclass(frozen=True)
class Prefetched(Generic[T]):
    item: T
    waited_s: float
    """How long it was waited for."""


def prefetch(items: Iterator[T], depth: int = DEPTH) -> Generator[Prefetched[T], None, None]:
    """Collective if the making of a step is: the same items, none of which is None; to be closed.

    They are asked for at the same moments on every rank, as many and in the same order, so that those who make them may
    speak with each other, in a group of their own. Raises what the making of one raises, in its turn.
    """
    asked: SimpleQueue[Future[T | None] | None] = SimpleQueue()
    coming: deque[Future[T | None]] = deque()

    def ask() -> None:
        coming.append(Future())
        asked.put(coming[-1])

    # A daemon, not a pool of threads: these would be waited for when the process ends, whoever they wait for.
    threading.Thread(target=_make, args=(items, asked), name="batches", daemon=True).start()
    try:
        for _ in range(depth):
            ask()
        while True:
            began = time.monotonic()
            item = coming.popleft().result()
            if item is None:
                return
            ask()
            yield Prefetched(item, time.monotonic() - began)
    finally:
        wait(coming, LEAVE_S)
        asked.put(None)


def _make(items: Iterator[T], asked: "SimpleQueue[Future[T | None] | None]") -> None:
    while (future := asked.get()) is not None:
        try:
            future.set_result(next(items, None))
        except BaseException as error:  # whatever it is, it is the loop's to hear of
            future.set_exception(error)
