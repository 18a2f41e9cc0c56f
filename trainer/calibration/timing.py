"""How long something takes on every rank while all ranks do it, because they share memory, links and caches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from shardtune.trainer.distributed.ranks import Ranks

LEAST_BLOCK_S = 5e-4
"""Calls that are shorter are timed several at once."""
RING_BYTES = 48 * 2**20
"""Bytes of the tensors that are used in turn, so that large ones are not in a cache, as in a step."""


@dataclass(frozen=True)
class Effort:
    """How thoroughly a machine is measured."""

    each_s: float = 0.004
    """Seconds for each number, beside what a single call takes."""
    operations: float = 1.5e8
    """Most multiplications of a matrix product, for each thread; larger ones reach the same rate."""
    token_sizes: tuple[int, ...] = (16, 128, 1024, 4096)
    """Tokens of a micro-batch."""
    feature_sizes: tuple[int, ...] = (8, 64, 256, 1024, 4096)
    """Widths of layers; of adapters the least."""
    elements: tuple[int, ...] = (2**12, 2**15, 2**18, 2**21)
    """Elements of other operations."""
    lengths: tuple[int, ...] = (16, 64, 256, 1024)
    """Tokens of a row."""
    parameters: tuple[int, ...] = (2**16, 2**23)
    """Trained elements of an engine."""
    messages: tuple[int, ...] = (2**12, 2**18, 2**24)
    """Bytes of a collective."""
    steps: int = 5
    """Steps of an engine, and passes of a model, that are timed."""
    tokens: int = 512
    """Of the larger pass of a small model."""


@dataclass(frozen=True)
class Clock:
    """Measures on all ranks at once."""

    ranks: Ranks
    effort: Effort

    def each(self, run: Callable[[], Any]) -> float:
        """Collective: seconds of a call without collectives, the ranks' mean."""
        self.ranks.barrier()
        run()
        first = _seconds(run, self.ranks.device)
        calls = max(1, round(LEAST_BLOCK_S / first))
        num_blocks = min(25, max(3, round(self.effort.each_s / (calls * first))))

        def block() -> None:
            for _ in range(calls):
                run()

        blocks = [_seconds(block, self.ranks.device) / calls for _ in range(num_blocks)]
        return self._mean(quartile(blocks))

    def both_ways(
        self, forward: Callable[[int], Any], backward: Callable[[Any], Any], ring: int
    ) -> tuple[float, float]:
        """Collective: seconds of a forward and of a backward pass without collectives, the ranks' means; with each of
        the numbers below `ring` in turn."""
        forwards: list[float] = []
        backwards: list[float] = []
        self.ranks.barrier()
        began = time.perf_counter()
        while len(forwards) < 4 or (time.perf_counter() - began < 4 * self.effort.each_s and len(forwards) < 25):
            since = time.perf_counter()
            outputs = [forward(number) for number in range(ring)]
            _wait(self.ranks.device)
            between = time.perf_counter()
            for output in outputs:
                backward(output)
            _wait(self.ranks.device)
            forwards.append((between - since) / ring)
            backwards.append((time.perf_counter() - between) / ring)
        # The first block has pages and code that are new.
        return self._mean(quartile(forwards[1:])), self._mean(quartile(backwards[1:]))

    def together(self, run: Callable[[], Any], times: int) -> float:
        """Collective: seconds of a call that has collectives, and is done so often by each rank."""
        run()
        taken = []
        for _ in range(max(2, times)):
            self.ranks.barrier()
            taken.append(_seconds(run, self.ranks.device))
        return self._mean(quartile(taken))

    def _mean(self, seconds: float) -> float:
        (total,) = self.ranks.sum(seconds)
        return max(total / self.ranks.world_size, 1e-9)


def quartile(values: Sequence[float]) -> float:
    """What a quarter of the values do not exceed: without what other processes take, but as it usually is."""
    return sorted(values)[len(values) // 4]


def ring_of(num_bytes: float) -> int:
    """How many tensors of this size are used in turn."""
    return int(min(16, max(2, RING_BYTES / num_bytes)))


def _seconds(run: Callable[[], Any], device: torch.device) -> float:
    since = time.perf_counter()
    run()
    _wait(device)
    return max(time.perf_counter() - since, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
