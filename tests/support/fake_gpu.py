"""A device without values, in the place of a GPU: what a program waits for there is written down here.

Tensors on it have a shape and no numbers (torch's FakeTensorMode, on the device `meta`), so a program cannot read one:
it would have to wait for the device. A tensor of the host is not accepted among those of the device, as on a GPU.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shardtune.trainer.tasks.batch import Batch

DEVICE = torch.device("meta")


class FakeGpu(TorchDispatchMode):
    """Notes every wait by the function that waits, and answers it with zero.

    What has a shape that only the values tell (a selection by a mask, nonzero) cannot be answered, and raises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        if function is torch.ops.aten._local_scalar_dense.default:
            if tensors[0].device == DEVICE:  # to read numbers of the host nothing is waited for
                self.waits.append(_caller())
            return _zero(tensors[0].dtype)
        result = function(*args, **(kwargs or {}))
        tensors += [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        # Numbers alone are no tensors of the host: they are arguments of the kernel.
        is_copy = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        if len({tensor.device for tensor in tensors if tensor.ndim or is_copy}) > 1:
            self.waits.append(_caller())
        return result


class _Uploads(TorchFunctionMode):
    """Notes the tensors that are made of Python's numbers on the device: the host waits for their copy."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and result.device == DEVICE:
            self._gpu.waits.append(_caller())
            return _VALUELESS.from_tensor(result)
        return result


@contextmanager
def fake_gpu() -> Iterator[FakeGpu]:
    """Within it, what was put on the device with `to_fake_gpu` and `batch_to_fake_gpu` can be computed with."""
    gpu = FakeGpu()
    with pytest.MonkeyPatch.context() as patch, _VALUELESS, gpu, _Uploads(gpu):
        # transformers reads no values of fake tensors, which it takes for those of a compiler: here they are a GPU's.
        patch.setattr("transformers.utils.import_utils.is_fake_tensor", lambda _: False)
        yield gpu


_VALUELESS = FakeTensorMode()


def to_fake_gpu(model: nn.Module) -> None:
    """Puts the parameters and buffers of a model on the device, in place."""
    moved: dict[int, Any] = {}

    def move(tensor: Tensor) -> Any:
        if id(tensor) not in moved:
            fake = on_fake_gpu(tensor.detach())
            is_parameter = isinstance(tensor, nn.Parameter)
            moved[id(tensor)] = nn.Parameter(fake, requires_grad=tensor.requires_grad) if is_parameter else fake
        return moved[id(tensor)]

    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            tensors.update({name: move(tensor) for name, tensor in tensors.items() if tensor is not None})


def batch_to_fake_gpu(batch: Batch) -> Batch:
    """The batch on the device."""
    return batch.mapped(on_fake_gpu)


def on_fake_gpu(tensor: Tensor) -> Tensor:
    """The tensor on the device."""
    with _VALUELESS:
        return _VALUELESS.from_tensor(tensor).to(DEVICE)


def _zero(dtype: torch.dtype) -> bool | int | float:
    return False if dtype == torch.bool else 0.0 if dtype.is_floating_point else 0


def _caller() -> str:
    """The innermost function that is neither torch's nor of this file, by its name."""
    frame: Any = sys._getframe(1)
    while frame.f_globals["__name__"].split(".")[0] == "torch" or frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}"
