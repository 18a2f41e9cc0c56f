"""The copies of a checkpoint take the memory that they need, once."""

from dataclasses import dataclass, field

import pytest
import torch

from shardtune.trainer.engine.memory import host_room
from shardtune.trainer.engine.memory.host_room import HostRoom

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@dataclass
class FakeRuntime:
    """CUDA's functions for page-locked memory, as torch.cuda.cudart() has them."""

    fault: int = 0
    registered: dict[int, int] = field(default_factory=dict)
    forgotten: list[torch.device] = field(default_factory=list)

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 1
        if not self.fault:
            self.registered[address] = size
        return self.fault

    def cudaHostUnregister(self, address: int) -> int:
        del self.registered[address]
        return 0


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    runtime = FakeRuntime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(host_room, "_forget_error", lambda device: runtime.forgotten.append(device))
    return runtime


def tensors(value: float) -> list[torch.Tensor]:
    return [
        torch.full((3,), value),
        torch.full((2, 5), value, dtype=torch.bfloat16),
        torch.full((), int(value)),
        torch.empty(0),
    ]


def test_copies_of_any_dtype_lie_in_one_block_no_larger_than_they_are() -> None:
    room = HostRoom(CPU)
    copies = room.copy(tensors(7))
    assert all(
        torch.equal(copy, tensor) and copy.dtype == tensor.dtype
        for copy, tensor in zip(copies, tensors(7), strict=True)
    )
    assert len({copy.untyped_storage().data_ptr() for copy in copies if copy.numel()}) == 1
    assert room.num_bytes == 3 * 64


def test_the_same_memory_is_used_again_until_the_shapes_change() -> None:
    room = HostRoom(CPU)
    first = room.copy(tensors(1))[0].data_ptr()
    second = room.copy(tensors(2))
    assert second[0].data_ptr() == first and second[0].tolist() == [2, 2, 2]
    assert [tuple(copy.shape) for copy in room.copy([torch.ones(4, 4)])] == [(4, 4)]


def test_a_block_for_a_gpu_is_page_locked_as_it_is_and_released_when_it_is_replaced(runtime: FakeRuntime) -> None:
    room = HostRoom(CUDA)
    first = room.copy(tensors(1))[0]
    assert runtime.registered == {first.data_ptr(): room.num_bytes} and not room.is_slow
    room.copy(tensors(2))
    assert len(runtime.registered) == 1
    second = room.copy([torch.ones(100)])[0]
    assert runtime.registered == {second.data_ptr(): 448}


def test_a_system_that_refuses_costs_time_and_not_the_checkpoint(runtime: FakeRuntime) -> None:
    runtime.fault = 2
    room = HostRoom(CUDA)
    assert room.copy(tensors(5))[0].tolist() == [5, 5, 5]
    assert room.is_slow and runtime.forgotten == [CUDA]
    room.copy([torch.ones(1)])
    assert not runtime.registered
