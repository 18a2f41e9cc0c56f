"""Real ranks for tests: forked processes in a gloo group."""

import multiprocessing as mp
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from shardtune.trainer.distributed.ranks import Ranks, connect, disconnect

T = TypeVar("T")


def run_ranks(body: Callable[..., T], *args: Any, world_size: int = 2, timeout_s: float = 120) -> list[T]:
    """What `body(ranks, *args)` returned on each forked rank, in rank order; a failing rank fails the test."""
    torch.set_num_threads(1)  # a forked child must not inherit a busy OpenMP pool
    if dist.is_initialized():
        dist.destroy_process_group()  # nor a group of this process, such as transformers.Trainer leaves
    context = mp.get_context("fork")
    answers: Any = context.Queue()
    with TemporaryDirectory() as folder:  # a file store: no port to choose, none to collide
        processes = [
            context.Process(target=_rank, args=(rank, world_size, Path(folder) / "store", body, args, answers))
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
        try:
            results: dict[int, T] = {}
            for _ in range(world_size):
                rank, result, failure = answers.get(timeout=timeout_s)
                assert failure is None, f"rank {rank}:\n{failure}"
                results[rank] = result
        finally:
            for process in processes:
                process.join(5)
                if process.is_alive():
                    process.kill()
                    process.join()
    return [results[rank] for rank in range(world_size)]


def _rank(rank: int, world_size: int, store: Path, body: Callable[..., Any], args: Any, answers: Any) -> None:
    # A fork leaves torch's thread pool to be made anew by the first thread that asks. transformers loads weights in
    # several threads at once, and of two that ask together one fails ("Invalid thread pool!", torch 2.13).
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # looked for, but the store is used
    try:
        ranks: Ranks = connect("cpu", store=dist.FileStore(str(store), world_size))
        answers.put((rank, body(ranks, *args), None))
        disconnect()
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))
