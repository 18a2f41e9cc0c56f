"""Host memory for the copies of a checkpoint: one block for each kind of tensors, page-locked for copies from a GPU."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

ALIGNED = 64
"""A tensor begins at a multiple of this many bytes, a cache line."""
PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for all CUDA contexts of the process."""


class HostRoom:
    """Room in host memory for tensors, one behind another in one block.

    torch's own page-locked memory is rounded up to a power of two, block by block: up to twice what is needed (torch
    2.13, aten/src/ATen/core/CachingHostAllocator.h). Here a block of ordinary memory is page-locked as it is.
    """

    def __init__(self, device: torch.device) -> None:
        """For copies from this device."""
        self._device = device
        self._block = torch.empty(0, dtype=torch.uint8)
        self._is_registered = False
        self._specs: list[tuple[torch.dtype, torch.Size]] = []
        self._views: list[Tensor] = []
        self.is_slow = False
        """Whether the system refused to page-lock memory for copies from a GPU, which are slower then."""

    @property
    def num_bytes(self) -> int:
        """Size of the block."""
        return self._block.nbytes

    def copy(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the tensors, which later changes of these do not reach; overwrites the copies made before.

        Takes new memory only if the tensors have other shapes or dtypes than last time: that takes longer than a copy.
        """
        specs = [(tensor.dtype, tensor.shape) for tensor in tensors]
        if specs != self._specs:
            self._make_room(specs)
        for view, tensor in zip(self._views, tensors, strict=True):
            view.copy_(tensor, non_blocking=True)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._views

    def _make_room(self, specs: list[tuple[torch.dtype, torch.Size]]) -> None:
        """Replaces the block by one for tensors of these dtypes and shapes."""
        self._release()
        starts, end = [], 0
        for dtype, shape in specs:
            starts.append(end)
            end += -(-dtype.itemsize * shape.numel() // ALIGNED) * ALIGNED
        self._block = torch.empty(end, dtype=torch.uint8)
        self._specs = specs
        self._views = [
            self._block[start : start + dtype.itemsize * shape.numel()].view(dtype).view(shape)
            for start, (dtype, shape) in zip(starts, specs, strict=True)
        ]
        if self._device.type == "cuda" and end:
            self._is_registered = _page_lock(self._block, self._device)
            self.is_slow = not self._is_registered

    def _release(self) -> None:
        """Frees the block; no copy of it may be in use."""
        if self._is_registered:
            _cuda_runtime().cudaHostUnregister(self._block.data_ptr())
        self._specs, self._views, self._is_registered = [], [], False
        self._block = torch.empty(0, dtype=torch.uint8)


def _page_lock(block: Tensor, device: torch.device) -> bool:
    """Page-locks the block; returns False if the system refuses (ulimit -l, or too little memory)."""
    fault = int(_cuda_runtime().cudaHostRegister(block.data_ptr(), block.nbytes, PORTABLE))
    if fault:
        _forget_error(device)
    return not fault


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]


def _forget_error(device: torch.device) -> None:
    """Finds the error that CUDA keeps until a check finds it, by a kernel, whose launch is checked."""
    with suppress(RuntimeError):
        torch.ones(1, device=device)
