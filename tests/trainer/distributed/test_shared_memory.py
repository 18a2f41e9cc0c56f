"""CPU ranks of one machine see each other's memory; where one cannot, all are told, and nothing is left behind."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.shared_memory import common_memory
from tests.support.ranks import run_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_rank_sees_what_each_has_written(world_size: int) -> None:
    before = set(Path("/dev/shm").iterdir())

    def body(ranks: Ranks) -> tuple[list[int], list[int]]:
        memory = common_memory(100 + ranks.rank, ranks)
        assert memory is not None and not any(tensor.any() for tensor in memory)
        ranks.barrier()  # or the others' next line would be seen in this one
        memory[ranks.rank].fill_(ranks.rank + 1)
        ranks.barrier()
        return [len(tensor) for tensor in memory], [int(tensor.sum()) for tensor in memory]

    sizes = [100 + rank for rank in range(world_size)]
    sums = [(rank + 1) * size for rank, size in enumerate(sizes)]
    assert run_ranks(body, world_size=world_size) == [(sizes, sums)] * world_size
    assert set(Path("/dev/shm").iterdir()) <= before


def no_room(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("name", "stand_in"),
    [
        ("posix_fallocate", no_room),
        ("getpid", lambda: 2**30),  # as in another container, where no such process is
        ("pwrite", lambda *_: 0),  # as on another machine, where another process has that number
    ],
)
def test_where_one_rank_cannot_all_are_told(name: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = getattr(os, name)

    def body(ranks: Ranks) -> bool:
        if ranks.rank == 1:
            monkeypatch.setattr(os, name, stand_in)
        memory = common_memory(100, ranks)
        monkeypatch.setattr(os, name, own)
        return memory is None

    assert run_ranks(body) == [True, True]
