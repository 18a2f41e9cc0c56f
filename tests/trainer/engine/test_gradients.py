"""A step's gradient is the sum of its own micro-batches, in fp32, whatever computes it."""

import gc
import json
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

STRATEGIES = ["null", "zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Optimizer = Callable[[nn.Module], torch.optim.Optimizer]


class Model(nn.Module):
    """With a layer that a micro-batch may skip."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.seldom, self.last = nn.Linear(8, size), nn.Linear(size, size), nn.Linear(size, 8)

    def forward(self, x: Tensor, whole: bool) -> Tensor:
        hidden = torch.tanh(self.first(x))
        out: Tensor = self.last(torch.tanh(self.seldom(hidden)) if whole else hidden)
        return out.float()


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.05, fused=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1.0)


def engine_of(
    strategy: str, precision: str, ranks: Ranks, *, optimizer: Optimizer, max_norm: float = 0.0, size: int = 8
) -> Any:
    recipe = tiny_recipe(
        Path("/"),
        f"engine={{deepspeed: {strategy}, precision: {precision}}}",
        f"optim.max_grad_norm={max_norm}",
    )
    ds_config = ds_config_of(recipe, hidden_size=8)
    if ds_config is None:
        words = {"precision": precision, "max_grad_norm": recipe.optim.max_grad_norm}
        return ReplicatedEngine(Model(size), optimizer, **words, ranks=ranks, seed=0)  # type: ignore[arg-type]
    return DeepSpeedEngine(Model(size), ds_config, optimizer, ranks=ranks, seed=0)


def inputs(rank: int, number: int, precision: str = "fp32") -> Tensor:
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(1000 * rank + number)).to(DTYPES[precision])


def loss_sum(out: Tensor, x: Tensor) -> Tensor:
    return (out - x.float() + 1).square().sum()


def step(engine: Any, ranks: Ranks, number: int, wholes: list[bool], *, precision: str = "fp32", lr: float) -> Any:
    engine.begin_step(number, num_micro_batches=len(wholes))
    for at, whole in enumerate(wholes):
        x = inputs(ranks.rank, 300 * number + at, precision)
        summed = loss_sum(engine.forward(Batch({"x": x, "whole": whole}, x)), x)
        engine.backward(summed, num_targets=4 * len(wholes) * ranks.world_size)
    return engine.step(lr=lr)


def masters(engine: Any) -> list[tuple[str, int, Tensor]]:
    """(parameter, first element, fp32 weights) of each part that this rank updates."""
    homes = engine._homes() if engine.zero_stage is None else zero.homes(engine._engine)
    return [(home.name, home.start, home.master.clone()) for home in homes]


# What a step, or a micro-batch of it, does not pass through

PASSED = [[True, True], [False, False], [False, True], [True, False], [True, True]]
"""Of each step's micro-batches: whether they pass through the seldom layer."""


def norms(ranks: Ranks, strategy: str, precision: str) -> list[float]:
    engine = engine_of(strategy, precision, ranks, optimizer=adamw, max_norm=0.5)
    return [
        step(engine, ranks, number, wholes, precision=precision, lr=0.05).grad_norm
        for number, wholes in enumerate(PASSED)
    ]


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_a_layer_that_a_step_or_a_micro_batch_skips_has_no_gradient_of_another_one(precision: str, near: float) -> None:
    def by_strategy(ranks: Ranks) -> dict[str, list[float]]:
        return {strategy: norms(ranks, strategy, precision) for strategy in STRATEGIES}

    found = run_ranks(by_strategy)[0]
    assert found == {strategy: pytest.approx(found["null"], rel=near) for strategy in STRATEGIES}


def test_an_old_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.trainer.engine.deepspeed_engine.forget_gradients", lambda engine: None)
    old, right = (run_ranks(norms, strategy, "fp32")[0] for strategy in ("zero3", "null"))
    assert old[0] == pytest.approx(right[0]) and old[1:] != pytest.approx(right[1:], rel=1e-3)


# Many micro-batches

NUM_MICRO_BATCHES = 256


def exact_gradient() -> dict[str, Tensor]:
    """The sum in fp64 of the gradients that the micro-batches of one rank have in bf16."""
    model = Model().bfloat16()
    total = {name: torch.zeros(p.numel(), dtype=torch.float64) for name, p in model.named_parameters()}
    for number in range(NUM_MICRO_BATCHES):
        model.zero_grad()
        x = inputs(0, number, "bf16")
        (loss_sum(model(x, True), x) / (4 * NUM_MICRO_BATCHES)).backward()  # type: ignore[no-untyped-call]
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            total[name] += parameter.grad.flatten().double()
    return total


def error(ranks: Ranks, strategy: str, exact: dict[str, Tensor]) -> float:
    """The relative error of the gradient of many micro-batches: by SGD with a rate of 1, what it takes off."""
    engine = engine_of(strategy, "bf16", ranks, optimizer=sgd)
    before = masters(engine)
    step(engine, ranks, 0, [True] * NUM_MICRO_BATCHES, precision="bf16", lr=1.0)
    taken = {
        name: (weights - stepped).double()
        for (name, _, weights), (_, _, stepped) in zip(before, masters(engine), strict=True)
    }
    off = sum(float((taken[name].flatten() - gradient).square().sum()) for name, gradient in exact.items())
    return float((off / sum(float(gradient.square().sum()) for gradient in exact.values())) ** 0.5)


def test_256_micro_batches_in_bf16_are_added_up_in_fp32(tmp_path: Path) -> None:
    """Where the sum is then sent in bf16 (zero0, zero1), it is rounded once."""
    (tmp_path / "bf16.json").write_text(json.dumps({"data_types": {"grad_accum_dtype": "bf16"}}))

    def by_strategy(ranks: Ranks) -> dict[str, float]:
        exact = exact_gradient()
        return {strategy: error(ranks, strategy, exact) for strategy in (*STRATEGIES, f"{tmp_path}/bf16.json")}

    found = run_ranks(by_strategy, world_size=1)[0]
    assert found.pop(f"{tmp_path}/bf16.json") > 0.01
    assert {strategy: error for strategy, error in found.items() if error > 0.003} == {}


# Clipping


def test_a_largest_norm_of_0_clips_nothing() -> None:
    def moved(ranks: Ranks, max_norm: float) -> dict[str, float]:
        """By how much a step of SGD moves the weights, relative to the gradient's norm."""
        found = {}
        for strategy in STRATEGIES:
            engine = engine_of(strategy, "fp32", ranks, optimizer=sgd, max_norm=max_norm)
            before = masters(engine)
            norm = step(engine, ranks, 0, [True], lr=1.0).grad_norm
            square = sum(
                float((one[2] - two[2]).square().sum()) for one, two in zip(before, masters(engine), strict=True)
            )
            is_whole = engine.zero_stage == 0 or (engine.zero_stage is None and not engine._is_shared)
            found[strategy] = ((square if is_whole else ranks.sum(square)[0]) ** 0.5) / norm
        return found

    assert run_ranks(moved, 0.0)[0] == dict.fromkeys(STRATEGIES, pytest.approx(1, rel=1e-3))
    assert all(part < 0.5 for part in run_ranks(moved, 1.0)[0].values())


# Memory


def bytes_of_tensors(ranks: Ranks, strategy: str, rehearsed: bool) -> int:
    """Bytes of all tensors of this process after a step."""
    engine = engine_of(strategy, "bf16", ranks, optimizer=adamw, size=256)
    if rehearsed:
        with engine.rehearsing():
            engine.begin_step(0, num_micro_batches=1)
            x = inputs(0, 0, "bf16")
            engine.backward(loss_sum(engine.forward(Batch({"x": x, "whole": True}, x)), x), num_targets=inf)
            engine.step(lr=0.0)
    step(engine, ranks, 0, [True], precision="bf16", lr=0.1)
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, Tensor) and (storage := thing.untyped_storage()).nbytes():
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rehearsal_leaves_no_second_copy_of_the_moments(strategy: str) -> None:
    without, rehearsed = (
        run_ranks(bytes_of_tensors, strategy, is_rehearsed, world_size=1)[0] for is_rehearsed in (False, True)
    )
    assert rehearsed == pytest.approx(without, rel=0.02)


def test_the_gradients_of_offloaded_optimizers_are_handed_over_once() -> None:
    """Nothing is left to do after a step whose last micro-batch passes through all layers."""

    def left_over(ranks: Ranks) -> list[int]:
        engine = engine_of("zero3_offload", "bf16", ranks, optimizer=adamw)
        wrapper, found = engine._engine.optimizer, []
        finish = wrapper._finalize_offload_gradient_accumulation
        wrapper._finalize_offload_gradient_accumulation = lambda: (
            found.append(len(wrapper._offload_boundary_param_ids)),
            finish(),
        )
        for number, wholes in enumerate(([True, True], [True, False])):
            step(engine, ranks, number, wholes, precision="bf16", lr=0.1)
        return found

    assert run_ranks(left_over) == [[0, 2]] * 2
