"""Hundreds of ranks as threads of one process, whose messages and file operations are counted.

torch.distributed is replaced below the collectives of shardtune: a message is an item in a queue.
"""

import functools
import os
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from shardtune.trainer.distributed import ranks as ranks_module
from shardtune.trainer.distributed import tree
from shardtune.trainer.distributed.ranks import Ranks

T = TypeVar("T")

WAIT_S = 60.0


class Messages:
    """Stands in for torch.distributed on ranks that are threads."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.sent: Counter[int] = Counter()
        """How many messages each rank has sent to another one."""
        self._here = threading.local()
        self._queues: defaultdict[tuple[int, int, int], SimpleQueue[Tensor]] = defaultdict(SimpleQueue)
        self._lock = threading.Lock()

    def is_rank(self, rank: int) -> None:
        """Makes this thread a rank."""
        self._here.rank = rank

    def send(self, tensor: Tensor, to: int, group: object = None, tag: int = 0) -> None:
        with self._lock:
            self.sent[self._here.rank] += 1
            queue = self._queues[self._here.rank, to, tag]
        queue.put(tensor.clone())

    def recv(self, tensor: Tensor, from_: int, group: object = None, tag: int = 0) -> None:
        with self._lock:
            queue = self._queues[from_, self._here.rank, tag]
        tensor.copy_(queue.get(timeout=WAIT_S))

    def isend(self, tensor: Tensor, to: int, group: object = None, tag: int = 0) -> None:
        self.send(tensor, to, group, tag)

    def irecv(self, tensor: Tensor, from_: int, group: object = None, tag: int = 0) -> "_Receipt":
        return _Receipt(lambda: self.recv(tensor, from_, group, tag))

    def broadcast(self, tensor: Tensor, root: int, group: object = None) -> None:
        """A binomial tree, as gloo's."""
        rank, distance = self._here.rank, 1
        while distance < self.num_ranks:
            if distance <= rank < 2 * distance:
                self.recv(tensor, rank - distance, tag=-1)
            if rank < distance and rank + distance < self.num_ranks:
                self.send(tensor, rank + distance, tag=-1)
            distance *= 2


class _Receipt:
    def __init__(self, receive: Callable[[], None]) -> None:
        self.wait = receive


def on_threads(body: Callable[[Ranks], T], num_ranks: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[T], Messages]:
    """What `body` returned on each rank, in rank order, and the messages that they have sent."""
    messages = Messages(num_ranks)
    for module in (tree, ranks_module):
        monkeypatch.setattr(module, "dist", messages)
    results: dict[int, T] = {}
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        messages.is_rank(rank)
        try:
            results[rank] = body(Ranks(rank, num_ranks, rank % 8, torch.device("cpu")))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(num_ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    for failure in failures:
        raise failure
    assert len(results) == num_ranks, "a rank waits for a message that nobody sends"
    return [results[rank] for rank in range(num_ranks)], messages


@functools.cache
def _listen() -> None:
    sys.addaudithook(_note)  # stays: there is no way to take one back


_counting: list[tuple[str, Counter[str]]] = []
_EVENTS = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.utime"}


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _counting and event in _EVENTS and args and isinstance(args[0], str | os.PathLike):
        _count(event.removeprefix("os."), args[0])


def _count(kind: str, path: object) -> None:
    for folder, counter in _counting:
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
            counter[kind] += 1


@contextmanager
def file_calls(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapping[str, int]]:
    """Counts the calls of the system on paths below the folder, of all threads, by their kind: open, stat, scandir, …

    Files that safetensors opens are counted too, which Python does not see.
    """
    _listen()
    counter: Counter[str] = Counter()
    with monkeypatch.context() as patch:
        for name in ("stat", "lstat"):
            patch.setattr(os, name, _counted(getattr(os, name)))
        from shardtune.trainer.engine import snapshot

        patch.setattr(snapshot, "safe_open", _counted(snapshot.safe_open, "open"))
        _counting.append((f"{folder}/", counter))
        try:
            yield counter
        finally:
            _counting.pop()


def _counted(function: Callable[..., Any], kind: str = "stat") -> Callable[..., Any]:
    def call(path: Any, *args: Any, **kwargs: Any) -> Any:
        _count(kind, path)
        return function(path, *args, **kwargs)

    return call
