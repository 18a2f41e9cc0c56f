"""Rank 0 of as many ranks as a test wants, in one process: collectives return at once, all else is real."""

import gc
import multiprocessing as mp
import os
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import replicated_engine
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.exchange.buckets import BUCKET_BYTES, WIRE_DTYPES
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine

T = TypeVar("T")


def as_rank_zero(body: Callable[..., T], *args: Any, world_size: int, timeout_s: float = 120) -> T:
    """What `body(ranks, *args)` returned in a forked process that is rank 0 of world_size."""
    torch.set_num_threads(1)
    context = mp.get_context("fork")
    answers: Any = context.Queue()
    process = context.Process(target=_rank, args=(world_size, body, args, answers))
    process.start()
    try:
        result, failure = answers.get(timeout=timeout_s)
    finally:
        process.join(5)
        if process.is_alive():
            process.kill()
            process.join()
    assert failure is None, failure
    found: T = result
    return found


def _rank(world_size: int, body: Callable[..., Any], args: Any, answers: Any) -> None:
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(world_size), "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    try:
        dist.init_process_group(backend="fake", rank=0, world_size=world_size, store=FakeStore())
        answers.put((body(Ranks(0, world_size, 0, torch.device("cpu")), *args), None))
    except BaseException:
        answers.put((None, traceback.format_exc()))


def record_collectives() -> list[tuple[str, int]]:
    """A list that fills with the name and the bytes of the whole tensor of each collective from now on.

    For a process that ends soon."""
    found: list[tuple[str, int]] = []

    def recorded(name: str, collective: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            size = max((tensor.nbytes for tensor in tensors), default=0)
            found.append((name, size))
            return collective(*args, **kwargs)

        return call

    for name in ("all_reduce", "reduce", "broadcast", "all_gather_into_tensor", "reduce_scatter_tensor"):
        setattr(dist, name, recorded(name, getattr(dist, name)))
    return found


def engine_of(model: Any, recipe: Recipe, ds_config: dict[str, Any] | None, ranks: Ranks) -> tuple[Any, Any]:
    """What computes a forward pass of the recipe's engine, and the engine; in a process that ends soon."""

    def make_optimizer(model: Any) -> torch.optim.Optimizer:
        return adamw(model, recipe.optim, l2_sp=recipe.regularize.l2_sp)

    if ds_config is not None:
        engine = DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=0)
        return engine._engine, engine
    replicated_engine.common_memory = lambda *_: None  # type: ignore[assignment]  # as on GPUs
    return model, ReplicatedEngine(
        model,
        make_optimizer,
        precision=recipe.engine.precision,
        max_grad_norm=1.0,
        ranks=ranks,
        seed=0,
        exchanged_in=WIRE_DTYPES[recipe.engine.communication_data_type],
        bucket_bytes=BUCKET_BYTES,
        has_sparse_gradients=False,
    )


def tensor_bytes() -> Counter[str]:
    """Bytes of all storages of tensors in this process, by dtype."""
    gc.collect()
    found: dict[int, tuple[str, int]] = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor) and thing.device.type == "cpu" and thing.layout is torch.strided:
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and type(tensor).__name__ != "FakeTensor":
                    storage = tensor.untyped_storage()
                    if storage.nbytes():
                        found[storage.data_ptr()] = str(tensor.dtype).removeprefix("torch."), storage.nbytes()
    total: Counter[str] = Counter()
    for dtype, size in found.values():
        total[dtype] += size
    return total
