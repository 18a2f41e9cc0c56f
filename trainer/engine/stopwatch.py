"""Compute time of this rank alone: its forward passes, without the time that they wait for other ranks.

Backward passes are not timed, because they wait for the gradients of other ranks; on a slow rank they are slower by the
same factor as forward passes.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


class Stopwatch:
    """Times the forward passes of a model in training mode; evaluations are not timed."""

    def __init__(self, model: nn.Module, device: torch.device, *, sharded: bool) -> None:
        """`sharded`: parameters arrive from other ranks during the pass, before the layer that uses them."""
        self._on_gpu = device.type == "cuda"
        self._began: Any = None
        self._passes: list[tuple[Any, Any]] = []
        timed = [model]
        if sharded:  # it waits between layers; in a module without children it computes
            timed = [*_fetched_at_once(model)]
        for module in timed:
            module.register_forward_pre_hook(self._begin)  # after the hooks that fetch the parameters
            module.register_forward_hook(self._end, prepend=True)  # before the hooks that release them

    def start(self) -> None:
        """Discards the times so far."""
        self._passes.clear()

    def stop(self) -> float:
        """Returns the seconds in forward passes since start()."""
        if not self._passes:
            return 0.0
        if self._on_gpu:
            self._passes[-1][1].synchronize()
            seconds = sum(began.elapsed_time(ended) for began, ended in self._passes) / 1e3
        else:
            seconds = sum(ended - began for began, ended in self._passes)
        self._passes.clear()
        return float(seconds)

    def _begin(self, module: nn.Module, *_: Any) -> None:
        self._began = self._now() if module.training else None

    def _end(self, *_: Any) -> None:
        if self._began is not None:
            self._passes.append((self._began, self._now()))

    def _now(self) -> Any:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event


def _fetched_at_once(module: nn.Module) -> Iterator[nn.Module]:
    """The modules without children that have parameters, and those that DeepSpeed treats as if they had no children."""
    if getattr(module, "_z3_leaf", False):
        yield module
        return
    children = [*module.children()]
    if not children and [*module.parameters(recurse=False)]:
        yield module
    for child in children:
        yield from _fetched_at_once(child)
