"""How long the engines take beside the model's passes: adding up and exchanging gradients, and the update."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.planner.measured.calibration import ENGINES, EngineTime
from shardtune.planner.measured.curves import Curve
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.calibration.timing import Clock
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.tasks.batch import Batch

RECIPE = """
task: {kind: language_modeling}
model: {path: .}
data: {train: rows.txt}
"""
FEW, MANY = 16, 128
"""Tensors that the elements are divided into: as in a small model, and as in one of more layers."""


class _Weight(nn.Module):
    """A tensor whose gradient takes as little as can be."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(max(1, elements // WIDTH), WIDTH))

    def forward(self) -> Tensor:
        return self.weight.sum(dtype=torch.float32)


WIDTH = 64


class _Weights(nn.Module):
    """A model that is all gradients and no computation."""

    def __init__(self, elements: int, num_tensors: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(_Weight(elements // num_tensors) for _ in range(num_tensors))
        self.config = None

    def forward(self, input_ids: Tensor) -> Tensor:
        return torch.stack([part() for part in self.parts]).sum()


@dataclass(frozen=True)
class _Kind:
    """An engine of ENGINES, in a precision."""

    name: str
    recipe: Recipe

    def build(self, model: nn.Module, ranks: Ranks) -> Engine:
        """Collective: the engine of this model."""
        recipe = self.recipe

        def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
            return OPTIMIZERS[recipe.optim.kind](model, recipe.optim)

        common: dict[str, Any] = {"ranks": ranks, "seed": 0}
        if (ds_config := ds_config_of(recipe, hidden_size=WIDTH)) is not None:
            return DeepSpeedEngine(model, ds_config, make_optimizer, **common)
        return ReplicatedEngine(
            model,
            make_optimizer,
            precision=recipe.engine.precision,
            max_grad_norm=recipe.optim.max_grad_norm,
            **common,
        )


def measure_engines(clock: Clock, precision: str) -> dict[str, EngineTime]:
    """Collective: the engines, by ENGINES."""
    return {
        name: _measure(
            clock,
            _Kind(name, parse_recipe(RECIPE, [f"engine.deepspeed={name}", f"engine.precision={precision}"])),
        )
        for name in ENGINES
    }


def _measure(clock: Clock, kind: _Kind) -> EngineTime:
    first, more = [], []
    for elements in clock.effort.parameters:
        one, two = _step_seconds(clock, kind, elements, FEW, (1, 2))
        first.append((float(elements), one))
        more.append((float(elements), max(two - one, 0.02 * one)))
    (many,) = _step_seconds(clock, kind, clock.effort.parameters[0], MANY, (1,))
    each = max(0.0, many - first[0][1]) / (MANY - FEW)
    # What few tensors take is in the curves already.
    return EngineTime(_without(first, FEW * each), _without(more, FEW * each), each)


def _without(points: Sequence[tuple[float, float]], seconds: float) -> Curve:
    """The points less what their tensors take, but at least a tenth of each."""
    return Curve(tuple((size, max(whole - seconds, 0.1 * whole)) for size, whole in points))


def _step_seconds(
    clock: Clock, kind: _Kind, elements: int, num_tensors: int, micro_batches: Sequence[int]
) -> list[float]:
    """Collective: seconds of steps with these numbers of micro-batches, without what the passes of the model itself
    take."""
    dtype = torch.bfloat16 if kind.recipe.engine.precision == "bf16" else torch.float32
    batch = Batch({"input_ids": torch.zeros(1, 1, dtype=torch.long)}, torch.zeros(1, dtype=torch.long))
    bare = _Weights(elements, num_tensors).to(dtype)

    def one_pass() -> None:
        bare(**batch.inputs).backward()
        for parameter in bare.parameters():
            parameter.grad = None

    alone = clock.each(one_pass)
    engine = kind.build(_Weights(elements, num_tensors), clock.ranks)

    def step(num: int) -> None:
        engine.begin_step(0, num_micro_batches=num)
        for _ in range(num):
            engine.backward(engine.forward(batch), num_targets=1.0)
        engine.step(lr=1e-5)

    return [
        max(clock.together(lambda num=num: step(num), clock.effort.steps) - num * alone, 1e-6)  # type: ignore[misc]
        for num in micro_batches
    ]
