"""L2-SP and EWC move weights by their closed forms, whatever computes the step."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine import zero_layout as zero
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.engine.regularize.penalty import Fisher
from shardtune.trainer.engine.snapshot import Fragment, SavedTensors, write_fragments
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.trainer.engine.test_gradients import STRATEGIES, engine_of, inputs, masters, sgd, step

L2_SP, WEIGHT, LR = 0.5, 3.0, 0.1


def held_adamw(model: nn.Module, states: Literal["fp32", "bf16"] = "fp32") -> torch.optim.Optimizer:
    model.new_weights = frozenset({"last.weight", "last.bias"})  # type: ignore[assignment]
    return adamw(model, OptimConfig(lr=LR, weight_decay=0.2, states=states), l2_sp=L2_SP)


def idle_step(engine: Any, ranks: Ranks, precision: str) -> Any:
    """A step whose gradient of the loss is 0."""
    engine.begin_step(0, num_micro_batches=1)
    x = inputs(ranks.rank, 0, precision)
    out = engine.forward(Batch({"x": x, "whole": True}, x))
    engine.backward(out.sum() * 0, num_targets=1)
    return engine.step(lr=LR)


def push(engine: Any, ranks: Ranks, by: float = 1.0) -> None:
    """Moves all weights that the ranks update."""
    for home in engine._homes() if engine.zero_stage is None else zero.homes(engine._engine):
        home.master.add_(by)
    ranks.barrier()


def after_idle_steps(ranks: Ranks, precision: str, states: Literal["fp32", "bf16"]) -> list[tuple[str, list[float]]]:
    """By strategy the penalty of each of three steps; refuses weights that are not where the closed form has them."""
    found = []
    for strategy in STRATEGIES:
        engine = engine_of(strategy, precision, ranks, optimizer=partial(held_adamw, states=states), max_norm=1.0)
        start = masters(engine)
        engine.hold_weights()
        push(engine, ranks)
        penalties = [float(idle_step(engine, ranks, precision).penalty) for _ in range(3)]
        for (name, _, before), (_, _, after) in zip(start, masters(engine), strict=True):
            if name.startswith("last"):
                decayed = (before + 1) * (1 - LR * 0.2 * (name == "last.weight")) ** 3
                assert torch.allclose(after, decayed, rtol=1e-5), (strategy, name, "new weights have weight decay")
            else:
                left = torch.full_like(after, (1 - LR * L2_SP) ** 3)
                assert torch.allclose(after - before, left, rtol=1e-4), (strategy, name)
        found.append((strategy, [sum(ranks.gather(value)) for value in penalties]))
    return found


@pytest.mark.parametrize(
    ("world_size", "precision", "states"),
    [(1, "fp32", "fp32"), (1, "bf16", "bf16"), (2, "fp32", "fp32"), (2, "bf16", "fp32")],
)
def test_l2_sp_leaves_a_part_of_the_way_from_the_pretrained_weights(
    world_size: int, precision: str, states: str
) -> None:
    num_held = 2 * (8 * 8 + 8)
    expected = [L2_SP / 2 * num_held * (1 - LR * L2_SP) ** (2 * number) for number in range(3)]
    for strategy, penalties in run_ranks(after_idle_steps, precision, states, world_size=world_size)[0]:
        assert penalties == pytest.approx(expected, rel=1e-4), strategy


def random_fisher(folder: Path) -> dict[str, Tensor]:
    """Numbers for the parameters of the tiny model but one, whose last rows are unknown."""
    torch.manual_seed(1)
    sizes = {"first.weight": 64, "first.bias": 8, "seldom.weight": 40, "last.weight": 64, "last.bias": 8}
    values = {name: torch.rand(size) for name, size in sizes.items()}
    write_fragments(folder / "f.safetensors", [Fragment(name, 0, value) for name, value in values.items()])
    return values


def fisher_in(folder: Path) -> Fisher:
    sizes = {"first.weight": 64, "first.bias": 8, "seldom.weight": 40, "last.weight": 64, "last.bias": 8}
    return Fisher(WEIGHT, SavedTensors([folder / "f.safetensors"], opens_all=False), sizes)


def ewc_step(ranks: Ranks, strategy: str, fisher: Fisher | None) -> tuple[list[tuple[str, int, Tensor]], Any]:
    """The weights after a step of SGD from 0.5 beside the pretrained ones, and its numbers."""
    engine = engine_of(strategy, "fp32", ranks, optimizer=sgd)
    if fisher is not None:
        engine.hold_weights(fisher)
    push(engine, ranks, 0.5)
    stats = step(engine, ranks, 0, [True, True], lr=LR)
    return masters(engine), stats


def compare_with_free_steps(ranks: Ranks, folder: Path, values: dict[str, Tensor]) -> list[float]:
    """The penalty by strategy; refuses a step that differs from one without it by anything but its gradient."""
    totals = []
    for strategy in STRATEGIES:
        free, free_stats = ewc_step(ranks, strategy, None)
        held, stats = ewc_step(ranks, strategy, fisher_in(folder))
        assert stats.grad_norm == pytest.approx(free_stats.grad_norm), "it is that of the loss"
        totals.append(sum(ranks.gather(float(stats.penalty))))
        for (name, first, one), (_, _, other) in zip(free, held, strict=True):
            whole = torch.zeros(64 if "weight" in name else 8)
            whole[: len(values.get(name, ()))] = values.get(name, torch.zeros(0))
            expected = LR * WEIGHT * whole[first : first + one.numel()] * 0.5
            assert torch.allclose(one.flatten() - other.flatten(), expected, atol=1e-6), (strategy, name)
    return totals


@pytest.mark.parametrize("world_size", [1, 2])
def test_ewc_adds_the_gradient_of_its_penalty(tmp_path: Path, world_size: int) -> None:
    values = random_fisher(tmp_path)
    penalty = WEIGHT / 2 * sum(float(value.sum()) for value in values.values()) * 0.5**2
    totals = run_ranks(compare_with_free_steps, tmp_path, values, world_size=world_size)[0]
    assert totals == pytest.approx([penalty] * len(STRATEGIES), rel=1e-5)


def distance_of_clipped_steps(ranks: Ranks, folder: Path) -> list[float]:
    """How far the weights are from those of the first strategy, after steps whose gradients are clipped."""
    found = []
    for strategy in STRATEGIES:
        engine = engine_of(strategy, "fp32", ranks, optimizer=held_adamw, max_norm=0.01)
        engine.hold_weights(fisher_in(folder))
        for number in range(4):
            step(engine, ranks, number, [True], lr=LR)
        found.append({name: weights.flatten() for name, _, weights in masters(engine)})
    return [max(float((other[name] - found[0][name]).abs().max()) for name in other) for other in found]


def test_a_clipped_gradient_clips_no_penalty(tmp_path: Path) -> None:
    """A fused step divides the gradient, and would divide the penalty's too."""
    random_fisher(tmp_path)
    (distances,) = run_ranks(distance_of_clipped_steps, tmp_path, world_size=1)
    assert distances == pytest.approx([0.0] * len(STRATEGIES), abs=1e-4)
