"""How long something takes on every rank while all ranks do it, because they share memory, links and caches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
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
    parameters: tuple[int, ...] = (2**16, 2**24)
    """Trained elements of an engine."""
    messages: tuple[int, ...] = (2**12, 2**18, 2**24)
    """Bytes of a collective."""
    steps: int = 5
    """Steps of an engine that are timed."""
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
        first = self._seconds(run)
        calls = max(1, round(LEAST_BLOCK_S / first))
        num_blocks = min(25, max(3, round(self.effort.each_s / (calls * first))))

        def block() -> None:
            for _ in range(calls):
                run()

        return self._mean(quartile([self._seconds(block) / calls for _ in range(num_blocks)]))

    def both_ways(
        self, forward: Callable[[int], Any], backward: Callable[[Any], Any], ring: int
    ) -> tuple[float, float]:
        """Collective: seconds of a forward and of a backward pass without collectives, the ranks' means; with each of
        the numbers below `ring` in turn."""
        outputs: list[Any] = []

        def all_forward() -> None:
            outputs[:] = [forward(number) for number in range(ring)]

        def all_backward() -> None:
            for output in outputs:
                backward(output)

        forwards: list[float] = []
        backwards: list[float] = []
        self.ranks.barrier()
        while len(forwards) < 4 or (sum(forwards) + sum(backwards) < 4 * self.effort.each_s and len(forwards) < 25):
            forwards.append(self._seconds(all_forward))
            backwards.append(self._seconds(all_backward))
        # The first block has pages and code that are new.
        return self._mean(quartile(forwards[1:]) / ring), self._mean(quartile(backwards[1:]) / ring)

    def _seconds(self, run: Callable[[], Any]) -> float:
        """Seconds of a call without collectives. On a CPU those of this thread, which has a part in all that others of
        the rank do, so that what other programs take does not count."""
        if self.ranks.device.type == "cuda":
            return _wall_seconds(run, self.ranks.device)
        since = time.thread_time()
        run()
        return max(time.thread_time() - since, 1e-9)

    def together(self, run: Callable[[], Any], times: int) -> float:
        """Collective: seconds of a call that has collectives, and is done so often by each rank: the median, because
        a step waits for the slowest rank each time."""
        run()
        taken = []
        for _ in range(max(2, times)):
            self.ranks.barrier()
            is_alone = self.ranks.world_size == 1
            taken.append(self._seconds(run) if is_alone else _wall_seconds(run, self.ranks.device))
        return self._mean(median(taken))

    def _mean(self, seconds: float) -> float:
        (total,) = self.ranks.sum(seconds)
        return max(total / self.ranks.world_size, 1e-9)


def quartile(values: Sequence[float]) -> float:
    """What a quarter of the values do not exceed: without what other processes take, but as it usually is."""
    return sorted(values)[len(values) // 4]


def ring_of(num_bytes: float) -> int:
    """How many tensors of this size are used in turn."""
    return int(min(16, max(2, RING_BYTES / num_bytes)))


def _wall_seconds(run: Callable[[], Any], device: torch.device) -> float:
    since = time.perf_counter()
    run()
    _wait(device)
    return max(time.perf_counter() - since, 1e-9)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
