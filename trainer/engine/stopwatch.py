"""How long this rank computes by itself: the time of its forward passes, without what they wait for other ranks.

Backward passes are not timed, for the gradients of other ranks are waited for in them; they take as much longer on a
slow rank as forward passes do.
"""

import time
from typing import Any

import torch
from torch import nn


class Stopwatch:
    """Times the forward passes of a model in training; evaluations are left out."""

    def __init__(self, model: nn.Module, device: torch.device, *, sharded: bool) -> None:
        """`sharded`: parameters come from other ranks in the middle of the pass, before the layer that has them."""
        self._on_gpu = device.type == "cuda"
        self._began: Any = None
        self._passes: list[tuple[Any, Any]] = []
        timed = [model]
        if sharded:  # between the layers it waits; in one without parts of its own it computes
            timed = [its for its in model.modules() if not [*its.children()] and [*its.parameters(recurse=False)]]
        for module in timed:
            module.register_forward_pre_hook(self._begin)  # after those that fetch the parameters
            module.register_forward_hook(self._end, prepend=True)  # before those that give them back

    def start(self) -> None:
        """Forgets what was timed so far."""
        self._passes.clear()

    def stop(self) -> float:
        """Seconds since the start, in forward passes."""
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
