"""The lease of the run directory on every rank of a start (shardtune/run_dir/lease.py): rank 0 holds it for all."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease import FileLease, join_lease, refuse_if_lost, take_lease
from shardtune.trainer.distributed.rank_env import global_rank, lease_token, start_name

if TYPE_CHECKING:  # rank 0 holds the lease before it imports torch
    from shardtune.trainer.distributed.ranks import Ranks


class Lease(Protocol):
    """The right to write the run directory."""

    def check(self) -> None:
        """Raises TakenOverError if the lease is lost; called often, and reads the file on rank 0 only."""
        ...

    def check_here(self) -> None:
        """Raises TakenOverError if the lease is lost; for any rank that is about to write on its own."""
        ...


class PeersLease:
    """The lease of the ranks above 0: they end when rank 0 does, so that not every rank has to read the file."""

    def __init__(self, path: Path, token: str, writer: str | None = None) -> None:
        self._path, self._token, self._writer = path, token, writer

    def check(self) -> None:
        pass

    def check_here(self) -> None:
        refuse_if_lost(self._path, self._token, self._writer)


def hold(run_dir: Path, job: str | None) -> FileLease | None:
    """The lease on rank 0, joined if the start has taken it already; None on other ranks.

    Raises CheckpointError if another start owns it.
    """
    if global_rank() != 0:
        return None
    if (token := lease_token()) is not None:
        return join_lease(run_dir / LEASE, token)
    say = functools.partial(print, file=sys.stderr, flush=True)
    return take_lease(run_dir / LEASE, job, start=start_name(), say=say)


@contextmanager
def leased(run_dir: Path, ranks: Ranks, *, job: str | None = None, held: FileLease | None = None) -> Iterator[Lease]:
    """Collective: the lease of the run directory. Raises CheckpointError, on every rank, if another start owns it.

    `held` is what rank 0 holds already, and keeps afterwards; otherwise it takes the lease, for as long as this lasts.
    """
    refusal: str | None = None
    taken: FileLease | None = None
    if ranks.is_zero and held is None:
        try:
            taken = take_lease(run_dir / LEASE, job)
        except CheckpointError as error:
            refusal = str(error)
    mine = held or taken
    refusal, token, writer = ranks.from_zero((refusal, mine.token if mine else "", mine.writer if mine else None))
    if refusal is not None:
        raise CheckpointError(refusal)
    try:
        yield mine or PeersLease(run_dir / LEASE, token, writer)
    finally:
        if taken is not None:
            taken.close()
