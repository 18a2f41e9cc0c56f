"""This process's rank, and the collectives, named by what they mean.

The only module that knows how the ranks were started: by torchrun, by deepspeed, by a test, or alone.
"""

import os
import pickle
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import pairwise
from typing import Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store

from shardtune.errors import LaunchError
from shardtune.machine.open_files import raise_open_files
from shardtune.trainer.distributed import tree
from shardtune.trainer.distributed.gpu.host_copy import HostCopy
from shardtune.trainer.distributed.gpu.own_gpu import choose_own_gpu
from shardtune.trainer.distributed.interfaces import give_gloo_the_interface_of_nccl
from shardtune.trainer.distributed.rank_env import global_rank, local_rank, world_size

T = TypeVar("T")

MOST_MESHED = 64
"""Most ranks that gloo connects with each other at the start, each group by sockets of its own. With more, a pair is
connected when it has something to say: of 512 ranks each has about 20 sockets a group then, not 511, of which two
groups would need all 1,024 descriptors that a process usually may have."""
ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""The variable that configures torch's allocator, and its earlier name."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank. Methods marked Collective must be called by all ranks, in the same order."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None = None
    """The group for questions that must not wait for a GPU: gloo beside NCCL; None if gloo is the only backend."""
    group: dist.ProcessGroup | None = None
    """The group of the collectives; None is the default group."""
    notes: tuple[str, ...] = ()
    """What was settled on this machine while the ranks connected, and should be said."""

    @property
    def is_zero(self) -> bool:
        return self.rank == 0

    @property
    def _host_group(self) -> dist.ProcessGroup | None:
        """The group of messages between processes, which are in the memory of the CPU."""
        return self.group if self.control is None else self.control

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The consecutive items of which this rank takes care: each of them is in the share of one rank."""
        first, last = (len(items) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return items[first:last]

    def sum(self, *values: float | Tensor) -> list[float]:
        """Collective: each value's sum over the ranks, in float64 (exact for counts up to 2**53)."""
        return self.sum_later(*values)()

    def sum_later(self, *values: float | Tensor) -> Callable[[], list[float]]:
        """Collective: as `sum`, without waiting for a GPU: the function returned waits for it and returns the sums."""
        totals = torch.stack([self._number(value) for value in values])
        dist.all_reduce(totals, group=self.group)
        return HostCopy(totals).read

    def _number(self, value: float | Tensor) -> Tensor:
        if isinstance(value, Tensor):
            return value.to(self.device, torch.float64)
        # Not a copy of the number to the device, which would wait for it.
        return torch.full((), value, dtype=torch.float64, device=self.device)

    def sum_counts(self, counts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Collective: the named tensors summed over the ranks, on the CPU. All ranks hold the same names and shapes."""
        totals = {}
        for name in sorted(counts):
            total = counts[name].to(self.device, copy=True)
            dist.all_reduce(total, group=self.group)
            totals[name] = total.cpu()
        return totals

    def any(self, flag: bool) -> bool:
        """Collective: whether the flag is set on at least one rank. Waits for no GPU."""
        return tree.any_of(flag, self.rank, self.world_size, self._host_group)

    def poll(self) -> tree.Poll:
        """A question that is asked again and again, for which no rank waits."""
        return tree.Poll(self.rank, self.world_size, self._host_group)

    def tensor_from_zero(self, values: Tensor) -> Tensor:
        """Collective: rank 0's values, of the same shape on every rank, on this rank's device."""
        there = values.to(self.device, copy=True)
        dist.broadcast(there, 0, group=self.group)
        return there

    def to_zero(self, value: T) -> list[T]:
        """Collective: every rank's value in rank order on rank 0, an empty list on the others; of any type."""
        payloads = tree.gather_to_zero(pickle.dumps(value), self.rank, self.world_size, self._host_group)
        return [] if payloads is None else [value, *(cast(T, pickle.loads(payload)) for payload in payloads[1:])]

    def from_zero(self, value: T) -> T:
        """Collective: rank 0's value on every rank; those of the others are ignored. Of any type."""
        content = tree.bytes_tensor(pickle.dumps(value) if self.is_zero else b"")
        size = torch.tensor([len(content)])
        dist.broadcast(size, 0, group=self._host_group)
        if not self.is_zero:
            content = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(content, 0, group=self._host_group)
        return value if self.is_zero else cast(T, pickle.loads(content.numpy().tobytes()))

    def gather(self, value: T) -> list[T]:
        """Collective: every rank's value, in rank order; for small values of any type.

        Where rank 0 alone needs them, or they are rank 0's alone, `to_zero` and `from_zero` send less.
        """
        return self.from_zero(self.to_zero(value))

    def gather_numbers(self, value: float) -> list[float]:
        """Collective: every rank's number, in rank order; cheaper than `gather`."""
        return [number for (number,) in self.gather_table([value])]

    def gather_table(self, values: Sequence[float]) -> list[list[float]]:
        """Collective: every rank's numbers, equally many on each, in rank order; as cheap as one of them."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        numbers = torch.empty(self.world_size * len(values), dtype=torch.float64, device=self.device)
        dist.all_gather_into_tensor(numbers, mine, group=self.group)
        table: list[list[float]] = numbers.view(self.world_size, len(values)).tolist()
        return table

    def gather_rows(self, rows: Tensor) -> list[Tensor]:
        """Collective: every rank's tensor, in rank order; their shapes may differ in the first dimension only."""
        sizes = [int(size) for size in self.gather_numbers(len(rows))]
        padded = rows.new_zeros(max(sizes), *rows.shape[1:])
        padded[: len(rows)] = rows
        whole = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(whole, padded, group=self.group)
        return [tensor[:size] for tensor, size in zip(whole, sizes, strict=True)]

    def exchange(self, values: Sequence[T]) -> list[T]:
        """Collective: what each rank sends to this one, in rank order. Value i goes to rank i, and to no other rank."""
        packed = [b"" if rank == self.rank else pickle.dumps(value) for rank, value in enumerate(values)]
        sizes = torch.tensor([len(part) for part in packed], device=self.device)
        other_sizes = torch.empty_like(sizes)
        dist.all_to_all_single(other_sizes, sizes, group=self.group)
        sent = tree.bytes_tensor(b"".join(packed)).to(self.device)
        received = torch.empty(int(other_sizes.sum()), dtype=torch.uint8, device=self.device)
        dist.all_to_all_single(received, sent, other_sizes.tolist(), sizes.tolist(), group=self.group)
        content = received.cpu().numpy().tobytes()
        ends = [0, *other_sizes.cumsum(0).tolist()]
        return [
            values[rank] if rank == self.rank else cast(T, pickle.loads(content[start:stop]))
            for rank, (start, stop) in enumerate(pairwise(ends))
        ]

    def barrier(self) -> None:
        """Collective: waits until every rank is here."""
        dist.barrier(group=self.group)

    def apart(self) -> "Ranks":
        """Collective: the same ranks in a separate group on the CPU, for collectives of another thread."""
        group = dist.new_group(backend="gloo")
        return replace(self, device=torch.device("cpu"), control=group, group=group)


def connect(
    device: Literal["auto", "cpu", "cuda"] = "auto",
    *,
    store: Store | None = None,
    timeout: timedelta = timedelta(minutes=10),
) -> Ranks:
    """Collective: joins the process group that torchrun or deepspeed describes in the environment; without one, a group
    of one.

    Ranks with a store of their own meet there instead of at MASTER_ADDR. A collective fails if a rank has not reached
    it within the timeout.

    Raises LaunchError if CUDA is requested but not available, or if this machine has fewer GPUs than ranks.
    """
    rank, size, local = global_rank(), world_size(), local_rank()
    notes = (raise_open_files(size), give_gloo_the_interface_of_nccl(os.environ) if size > 1 else None)
    where = _device(device, local)
    if where.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    else:
        _let_segments_grow()
        torch.cuda.set_device(where)
    if "MASTER_ADDR" not in os.environ:
        # DeepSpeed reads these even in a world of one; a free port, so that two such runs do not meet.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    if size > MOST_MESHED:
        os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    backend = "gloo" if where.type == "cpu" else "nccl"
    if store is not None:
        store.set_timeout(timeout)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    control = dist.new_group(backend="gloo", timeout=timeout) if backend == "nccl" else None
    return Ranks(rank, size, local, where, control, notes=tuple(note for note in notes if note is not None))


def _let_segments_grow() -> None:
    """Lets torch's CUDA allocator extend its segments (before it is first used), unless the user has configured it.

    Micro-batches have ever new shapes: with segments of fixed sizes, memory fragments.
    """
    if not any(os.environ.get(name) for name in ALLOCATOR_SETTINGS):
        os.environ[ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"


def disconnect() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _device(wanted: str, local: int) -> torch.device:
    if wanted == "cpu":
        return torch.device("cpu")
    index = choose_own_gpu(local, os.environ)
    num_gpus = torch.cuda.device_count()
    if wanted == "auto" and num_gpus == 0:
        return torch.device("cpu")
    if num_gpus == 0:
        raise LaunchError(
            "job.device: cuda is asked for, but torch sees no GPU; check nvidia-smi, or set job.device=cpu"
        )
    if index >= num_gpus:
        raise LaunchError(f"local rank {local} has no GPU: this machine has {num_gpus}; set job.ranks={num_gpus}")
    return torch.device("cuda", index)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
