"""What rank 0 finds out for all ranks before they are connected, so that a file server is asked by one of them.

The ranks meet at torch's store, which each reaches by one connection. No collective can time out meanwhile. Answers are
JSON, because others may reach the store too.
"""

import json
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast

from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from shardtune import errors
from shardtune.errors import ShardtuneError
from shardtune.trainer.distributed.rank_env import global_rank, local_rank, world_size

POLL_S, LEAST_POLL_S = 0.5, 0.02
WORKING, ANSWER, HEARD = "working", "answer", "heard"

Answer = Mapping[str, Any]
"""Of JSON's types."""


def meet(timeout: timedelta) -> Store | None:
    """The store of this start, on which the ranks are connected later; None for a single rank.

    Raises DistError if they have not met within the timeout.
    """
    if world_size() == 1:
        return None
    store, _, _ = next(rendezvous("env://", global_rank(), world_size(), timeout=timeout))
    return cast(Store, store)


def settled_by_zero(
    store: Store | None,
    look: Callable[[], Answer | None],
    work: Callable[[], Answer],
) -> Answer:
    """What rank 0 finds by `look`; if that is nothing, what `work` gives, in which one rank of each machine takes part.

    Raises on every rank what rank 0 raises, if that is a ShardtuneError; DistError if rank 0 has ended.
    """
    if store is None or global_rank() == 0:
        return _settle(store, look, work)
    takes_part, since = local_rank() == 0, time.monotonic()
    while not store.check([ANSWER]):
        if takes_part and store.check([WORKING]):
            work()
            takes_part = False
        time.sleep(min(POLL_S, LEAST_POLL_S + (time.monotonic() - since) / 10))  # rarely, once it takes long
    told = json.loads(store.get(ANSWER))
    store.add(HEARD, 1)
    if "error" in told:
        raise _kinds()[told["error"]](told["text"])
    answer: Answer = told["answer"]
    return answer


def _settle(store: Store | None, look: Callable[[], Answer | None], work: Callable[[], Answer]) -> Answer:
    try:
        answer = look()
        if answer is None:
            if store is not None:
                store.set(WORKING, "")
            answer = work()
    except ShardtuneError as error:
        if store is not None:
            kind = next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _kinds())
            _tell(store, {"error": kind, "text": str(error)})
        raise
    if store is not None:
        _tell(store, {"answer": answer})
    return answer


def _kinds() -> dict[str, type[ShardtuneError]]:
    """The errors of shardtune by their names."""
    kinds = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ShardtuneError))
    return {kind.__name__: kind for kind in kinds}


def _tell(store: Store, told: Answer) -> None:
    """Tells the other ranks, and waits a little until they have heard, because the store may end with this process."""
    store.set(ANSWER, json.dumps(told))
    until = time.monotonic() + 6 * POLL_S
    while store.add(HEARD, 0) < world_size() - 1 and time.monotonic() < until:
        time.sleep(LEAST_POLL_S)
