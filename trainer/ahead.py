"""Makes the batches of the next steps on a thread of its own, while this one's are trained on."""

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from dataclasses import replace
from queue import SimpleQueue

from trainer.steps import Step

DEPTH = 2
"""So many steps are made ahead."""
LEAVE_S = 10.0
"""How long a training that ends early waits for the steps that are being made: those of a stream are made together with
the other ranks, and one that has failed does not come."""


def made_ahead(steps: Iterator[Step], depth: int = DEPTH) -> Generator[Step, None, None]:
    """Collective if the making of a step is: the same steps, each with how long it was waited for; to be closed.

    Steps are asked for at the same moments on every rank, as many and in the same order, so that those who make them
    may speak with each other, in a group of their own. Raises what the making of a step raises, in its turn.
    """
    asked: SimpleQueue[Future[Step | None] | None] = SimpleQueue()
    coming: deque[Future[Step | None]] = deque()

    def ask() -> None:
        coming.append(Future())
        asked.put(coming[-1])

    # A daemon, not a pool of threads: these would be waited for when the process ends, whoever they wait for.
    threading.Thread(target=_make, args=(steps, asked), name="batches", daemon=True).start()
    try:
        for _ in range(depth):
            ask()
        while True:
            began = time.monotonic()
            step = coming.popleft().result()
            if step is None:
                return
            ask()
            yield replace(step, waited_s=time.monotonic() - began)
    finally:
        wait(coming, LEAVE_S)
        asked.put(None)


def _make(steps: Iterator[Step], asked: "SimpleQueue[Future[Step | None] | None]") -> None:
    while (future := asked.get()) is not None:
        try:
            future.set_result(next(steps, None))
        except BaseException as error:  # whatever it is, it is the loop's to hear of
            future.set_exception(error)
