"""What zero3_hpz holds and sends on many ranks, which torch's fake process group plays in one process."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from shardtune.ds_config.cluster import Cluster
from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks, disconnect
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

SIZE, DEPTH, PER_NODE = 64, 4, 8
WEIGHTS = SIZE * SIZE * DEPTH


class Model(nn.Module):
    """Layers that all count; some may be frozen."""

    def __init__(self, num_frozen: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(SIZE, SIZE, bias=False) for _ in range(DEPTH))
        for layer in self.layers[:num_frozen]:
            layer.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.float()


def fake_group(world_size: int) -> Ranks:
    """Rank 0 of so many: its collectives return at once."""
    disconnect()
    os.environ["WORLD_SIZE"] = str(world_size)
    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    return Ranks(0, world_size, 0, torch.device("cpu"))


def count_collectives(sent: Counter[tuple[str, int]]) -> None:
    """Adds to `sent`: (collective, ranks of its group) -> elements of the whole tensor."""
    gather, scatter = dist.all_gather_into_tensor, dist.reduce_scatter_tensor

    def all_gather(output_tensor: Tensor, input_tensor: Tensor, group: Any = None, **words: Any) -> Any:
        size = dist.get_world_size(group)
        sent["gather", size] += output_tensor.numel()
        output_tensor.view(size, -1).copy_(input_tensor.view(1, -1))  # the fake group leaves it as it is
        return gather(output_tensor, input_tensor, group=group, **words)

    def reduce_scatter(output: Tensor, input: Tensor, group: Any = None, **words: Any) -> Any:
        sent["scatter", dist.get_world_size(group)] += input.numel()
        return scatter(output, input, group=group, **words)

    dist.all_gather_into_tensor, dist.reduce_scatter_tensor = all_gather, reduce_scatter


def third_step(
    ranks: Ranks, strategy: str, world_size: int, num_frozen: int = 0, num_micro_batches: int = 1
) -> tuple[dict[Any, int], int, int]:
    """What a step sends, and the elements of both kinds of partitions within it."""
    ranks, recipe = fake_group(world_size), tiny_recipe(Path("/"), f"engine.deepspeed={strategy}")
    sent: Counter[tuple[str, int]] = Counter()
    count_collectives(sent)
    ds_config = ds_config_of(recipe, hidden_size=1, cluster=Cluster(world_size, PER_NODE, None))
    assert ds_config is not None
    # So that nothing is fetched ahead for the next step, or kept from the forward pass to the backward pass.
    ds_config["zero_optimization"] |= {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}
    engine = DeepSpeedEngine(Model(num_frozen), ds_config, lambda m: adamw(m, recipe.optim), ranks=ranks, seed=0)
    second = 0
    for number in range(3):
        sent.clear()
        engine.begin_step(number, num_micro_batches=num_micro_batches)
        for _ in range(num_micro_batches):
            x = torch.ones(2, SIZE)
            loss = engine.forward(Batch({"x": x}, x)).square().sum()
            parameters: list[Any] = [*engine._engine.module.parameters()]
            second = sum(p.ds_secondary_tensor.numel() for p in parameters if p.ds_secondary_tensor is not None)
            engine.backward(loss, num_targets=2)
        assert engine.step(lr=1e-3).applied
    return dict(sent), sum(p.ds_tensor.numel() for p in parameters), second


@pytest.mark.parametrize("world_size", [16, 64])
def test_weights_are_gathered_from_all_machines_once_a_step_and_then_within_each(world_size: int) -> None:
    ((sent, first, second),) = run_ranks(third_step, "zero3_hpz", world_size, world_size=1)
    assert (first, second) == (WEIGHTS // world_size, WEIGHTS // PER_NODE)
    assert sent == {
        ("gather", world_size): WEIGHTS,
        ("gather", PER_NODE): WEIGHTS,
        ("scatter", world_size): WEIGHTS,
    }


def test_further_micro_batches_of_a_step_gather_within_machines_only() -> None:
    ((sent, _, _),) = run_ranks(third_step, "zero3_hpz", 64, 0, 3, world_size=1)
    assert (sent["gather", 64], sent["gather", PER_NODE], sent["scatter", 64]) == (WEIGHTS, 5 * WEIGHTS, 3 * WEIGHTS)


def test_without_a_second_partition_every_pass_gathers_from_all_machines() -> None:
    ((sent, first, second),) = run_ranks(third_step, "zero3", 64, world_size=1)
    assert (first, second) == (WEIGHTS // 64, 0)
    assert sent == {("gather", 64): 2 * WEIGHTS, ("scatter", 64): WEIGHTS}


def test_frozen_weights_never_leave_their_machine_again() -> None:
    ((sent, _, second),) = run_ranks(third_step, "zero3_hpz", 64, 3, world_size=1)
    assert second == WEIGHTS // PER_NODE
    assert sent["gather", 64] == SIZE * SIZE, "the one layer that is trained"


def test_on_one_machine_nothing_is_held_twice() -> None:
    ((sent, first, second),) = run_ranks(third_step, "zero3_hpz", PER_NODE, world_size=1)
    assert (first, second) == (WEIGHTS // PER_NODE, 0)
    assert set(sent) == {("gather", PER_NODE), ("scatter", PER_NODE)}
