"""The error of a rank that runs out of memory: what was requested of how much, and which settings would fit."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from shardtune.ds_config.resolve import stage_of
from shardtune.errors import ShortOfMemoryError
from shardtune.machine.host_memory import host_memory
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.rank_env import ranks_here
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.memory.shortage import is_memory_error, requested_bytes
from shardtune.trainer.engine.memory.usage import gpu_memory, peak_memory
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.setup.memory_plan import memory_of, model_size, rank_job
from shardtune.trainer.tasks import Task

HEADROOM = 0.95
"""The part of a device's memory that an estimate may fill."""


@contextmanager
def memory_said(
    recipe: Recipe, task: Task, ranks: Ranks, shape: Callable[[], tuple[int, int] | None], *, micro_batch_tokens: int
) -> Iterator[None]:
    """Turns a lack of memory into a ShortOfMemoryError: one message with the numbers and the settings that would fit.

    `shape` returns the shape (rows, longest) of the last micro-batch that was begun, or None. No micro-batch has more
    than micro_batch_tokens.
    """
    try:
        yield
    except Exception as error:
        if not is_memory_error(error, free=gpu_memory(ranks.device).free):
            raise
        raise _explained(error, recipe, task, shape(), ranks, micro_batch_tokens) from error


def _explained(
    error: BaseException,
    recipe: Recipe,
    task: Task,
    shape: tuple[int, int] | None,
    ranks: Ranks,
    budget: int,
) -> ShortOfMemoryError:
    """The error, with memory in use as measured, and what settings would save as estimated."""
    used, asked = peak_memory(ranks.device).used, requested_bytes(error)
    where = f"in a micro-batch of {shape[0]} rows x {shape[1]} tokens" if shape else "before the first micro-batch"
    amount = f"{asked / 1e9:.2f} GB more" if asked else "more"
    lines = [
        f"rank {ranks.rank} ran out of memory {where}: it requested {amount} after a peak of {used / 1e9:.2f} GB; "
        f"{_room(ranks.device, asked)}."
    ]
    fitting = [
        f"  {setting:40} about {size / 1e9:.2f} GB a rank"
        for setting, size in _alternatives(
            recipe, task, shape or (1, recipe.data.max_tokens), ranks, used + asked, budget
        )
        if size <= HEADROOM * share_of_memory(ranks.device, ranks_here())
    ]
    if fitting:
        lines += ["By estimate, each of these alone would fit, and none changes what is learned:", *fitting[:4]]
    else:
        lines.append("By estimate, no single setting would fit; shard over more ranks, or lower data.max_tokens.")
    return ShortOfMemoryError("\n".join(lines))


def _alternatives(
    recipe: Recipe, task: Task, shape: tuple[int, int], ranks: Ranks, wanted: int, budget: int
) -> Iterator[tuple[str, float]]:
    """Settings, and the bytes that a rank would need with each instead of `wanted`."""
    rows, longest = shape
    model = model_size(recipe, task, load_model_config(recipe, task))

    def size(recipe: Recipe, rows: int) -> float:
        return memory_of(rank_job(recipe, model, world_size=ranks.world_size), model, (rows, longest)).used

    now = size(recipe, rows)
    while budget // 2 >= recipe.data.max_tokens:
        budget //= 2
        fewer = max(1, budget // longest)
        if fewer < rows:
            yield f"train.micro_batch_tokens={budget}", wanted - now + size(recipe, fewer)
    if not recipe.model.activation_checkpointing:
        checkpointing = recipe.model.model_copy(update={"activation_checkpointing": True})
        lean = recipe.model_copy(update={"model": checkpointing})
        yield "model.activation_checkpointing=true", wanted - now + size(lean, rows)
    strategies = [f"zero{stage}" for stage in range(max(stage_of(recipe), 1) + 1, 4) if ranks.world_size > 1]
    strategies += ["zero3_offload"] if ranks.device.type == "cuda" else []
    for strategy in strategies:
        engine = recipe.engine.model_copy(update={"deepspeed": strategy})
        sharded = recipe.model_copy(update={"engine": engine})
        yield f"engine.deepspeed={strategy}", wanted - now + size(sharded, rows)


def _room(device: torch.device, asked: int) -> str:
    """What memory there is, in words, and where on a GPU the rest of it is."""
    capacity = _capacity(device)
    if device.type != "cuda":
        return f"this machine has {capacity / 1e9:.2f} GB"
    memory = gpu_memory(device)
    parts = [f"its GPU has {capacity / 1e9:.2f} GB"]
    if memory.free is not None:
        parts.append(f"of which {memory.free / 1e9:.2f} GB are free")
    if memory.fragments:
        parts.append(f"{memory.fragments / 1e9:.2f} GB of it are unused pieces between tensors")
    if memory.free is not None and asked and memory.free > asked:
        parts.append("so the machine may be short of memory that can be page-locked for copies to the GPU")
    return ", ".join(parts)


def share_of_memory(device: torch.device, num_ranks: int) -> float:
    """Bytes of memory for a rank: those of its GPU, or its part of the machine's, which num_ranks CPU ranks share."""
    capacity = _capacity(device)
    return capacity if device.type == "cuda" else capacity / num_ranks


def _capacity(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host_memory()
