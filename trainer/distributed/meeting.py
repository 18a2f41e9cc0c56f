"""What rank 0 finds out for all ranks before they are connected, so that a file server is asked by one of them.

The ranks meet at torch's store, which each reaches by one connection. No collective can time out meanwhile.
"""

import base64
import pickle
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

from torch.distributed.distributed_c10d import Store
from torch.distributed.rendezvous import rendezvous

from shardtune.errors import ShardtuneError
from shardtune.trainer.distributed.rank_env import global_rank, local_rank, world_size

T = TypeVar("T")

POLL_S = 0.5
WORKING, ANSWER, HEARD = "working", "answer", "heard"


def meet(timeout: timedelta) -> Store | None:
    """The store of this start, on which the ranks are connected later; None for a single rank.

    Raises DistError if they have not met within the timeout.
    """
    if world_size() == 1:
        return None
    store, _, _ = next(rendezvous("env://", global_rank(), world_size(), timeout=timeout))
    return cast(Store, store)


def settled_by_zero(
    store: Store | None, look: Callable[[], T | None], work: Callable[[], T], check: Callable[[T], object]
) -> T:
    """What rank 0 finds by `look`; if that is nothing, what `work` gives, in which one rank of each machine takes part.

    Rank 0 passes it to `check`. Raises on every rank what rank 0 raises, if that is a ShardtuneError; DistError if
    rank 0 has ended.
    """
    if store is None or global_rank() == 0:
        return _settle(store, look, work, check)
    takes_part = local_rank() == 0
    while not store.check([ANSWER]):
        if takes_part and store.check([WORKING]):
            work()
            takes_part = False
        time.sleep(POLL_S)
    answer = pickle.loads(base64.b64decode(store.get(ANSWER)))
    store.add(HEARD, 1)
    if isinstance(answer, ShardtuneError):
        raise answer
    return cast(T, answer)


def _settle(
    store: Store | None, look: Callable[[], T | None], work: Callable[[], T], check: Callable[[T], object]
) -> T:
    try:
        found = look()
        if found is None:
            if store is not None:
                store.set(WORKING, "")
            found = work()
        check(found)
    except ShardtuneError as error:
        if store is not None:
            _tell(store, _plain(error))
            _wait_until_heard(store)
        raise
    if store is not None:
        _tell(store, found)
    return found


def _tell(store: Store, value: object) -> None:
    store.set(ANSWER, base64.b64encode(pickle.dumps(value)).decode())


def _wait_until_heard(store: Store) -> None:
    """Waits a little, because the store may end with this process; a rank that takes part in the work fails itself."""
    until = time.monotonic() + 6 * POLL_S
    while store.add(HEARD, 0) < world_size() - 1 and time.monotonic() < until:
        time.sleep(POLL_S / 10)


def _plain(error: ShardtuneError) -> ShardtuneError:
    """The error as one of shardtune.errors with its message, which can be pickled."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == ShardtuneError.__module__)
    return cast(ShardtuneError, kind(str(error)))
