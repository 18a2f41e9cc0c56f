"""Makes the batches of the next steps, or of an evaluation, on a background thread."""

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
"""How many steps, or batches, are made ahead."""
LEAVE_S = 10.0
"""How long a training that ends early waits for the steps that are being made. Those of a stream need all ranks, and a
rank that has failed does not take part."""


@dataclass(frozen=True)
class Prefetched(Generic[T]):
    """An item, and how it came."""

    item: T
    waited_s: float
    """How long the consumer waited for it."""


def prefetch(items: Iterator[T], depth: int = DEPTH) -> Generator[Prefetched[T], None, None]:
    """The same items (None is not allowed), made ahead. Collective if making an item is. The caller has to close it.

    Items are requested at the same moments on every rank, as many and in the same order, so that the threads that make
    them may use collectives in a process group of their own. Raises what making an item raised, in its turn.
    """
    requests: SimpleQueue[Future[T | None] | None] = SimpleQueue()
    pending: deque[Future[T | None]] = deque()

    def request() -> None:
        pending.append(Future())
        requests.put(pending[-1])

    # A daemon, not a thread pool, whose threads are joined when the process ends, whatever they wait for.
    threading.Thread(target=_make, args=(items, requests), name="batches", daemon=True).start()
    try:
        for _ in range(depth):
            request()
        while True:
            began = time.monotonic()
            item = pending.popleft().result()
            if item is None:
                return
            request()
            yield Prefetched(item, time.monotonic() - began)
    finally:
        wait(pending, LEAVE_S)
        requests.put(None)


def _make(items: Iterator[T], requests: "SimpleQueue[Future[T | None] | None]") -> None:
    while (future := requests.get()) is not None:
        try:
            future.set_result(next(items, None))
        except BaseException as error:  # of any kind: the consumer has to see it
            future.set_exception(error)
