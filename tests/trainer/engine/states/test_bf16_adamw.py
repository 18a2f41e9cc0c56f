"""Moments in bf16 learn as those in fp32 do, resume bit for bit, and are right on average."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from shardtune.run_dir.files import RESULTS
from shardtune.trainer.engine.states import bf16_adamw
from shardtune.trainer.engine.states.bf16_adamw import Bf16StatesAdamW, round_at_random
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.stops import stop_after
from tests.trainer.model.test_lora import saved

HOW = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}


def test_rounding_is_to_a_neighbor_in_bf16_and_right_on_average() -> None:
    torch.manual_seed(0)
    values = torch.randn(100) * torch.logspace(-20, 20, 100)
    rounded = torch.stack([round_at_random(values, number) for number in range(20_000)])
    assert torch.equal(rounded, rounded.bfloat16().float())
    assert ((rounded - values).abs() <= 2**-7 * values.abs()).all()
    assert all(len(column.unique()) == 2 for column in rounded.T)
    assert torch.allclose(rounded.double().mean(0), values.double(), rtol=2e-4)
    held = values.bfloat16().float()
    assert torch.equal(round_at_random(held, 7), held), "what bf16 holds already stays as it is"


def test_the_second_moment_follows_gradients_that_the_nearest_value_would_not() -> None:
    weights = nn.Parameter(torch.zeros(1000))
    optimizer = Bf16StatesAdamW([weights], **HOW)
    nearest, exact = torch.zeros(1000, dtype=torch.bfloat16), torch.zeros(1000)
    for _ in range(3000):
        weights.grad = torch.rand(1000)
        optimizer.step()
        exact = 0.999 * exact + 0.001 * weights.grad**2
        nearest = (0.999 * nearest.float() + 0.001 * weights.grad**2).bfloat16()
    kept = optimizer.state[weights]["exp_avg_sq"].float()
    assert kept.mean() == pytest.approx(float(exact.mean()), rel=0.01)
    assert float(nearest.float().mean()) != pytest.approx(float(exact.mean()), rel=0.1), "a test that cannot fail"


def test_a_step_in_chunks_is_that_of_torchs_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    monkeypatch.setattr(bf16_adamw, "CHUNK", 300)
    optimizers = Bf16StatesAdamW([ours], **HOW), torch.optim.AdamW([theirs], **HOW)
    for number in range(3):
        gradient = torch.randn(1000)
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
        # After the first step the moments were rounded.
        assert torch.allclose(ours, theirs, atol=1e-7 if number == 0 else 4e-4)
    assert {state.dtype for state in optimizers[0].state[ours].values()} == {torch.bfloat16, torch.float32}


STATES = ("optim.states=bf16", "train.num_epochs=1")


@pytest.mark.parametrize("strategy", ["null", "zero1", "zero2", "zero3"])
def test_ranks_and_engines_learn_the_same_and_a_broken_run_ends_bit_for_bit(
    tiny: Path, tmp_path: Path, strategy: str
) -> None:
    recipe = tiny_recipe(tiny, f"engine.deepspeed={strategy}", *STATES)
    whole, broken, alone = (tmp_path / name for name in ("whole", "broken", "alone"))
    train(recipe, whole, world_size=2)
    assert train(recipe, broken, world_size=2, before=stop_after(3))[0] == [False, False]
    train(recipe, broken, world_size=2)
    assert curve(events(broken)) == curve(events(whole))
    assert json.loads((broken / RESULTS).read_text()) == json.loads((whole / RESULTS).read_text())
    weights, others = saved(whole, 6), saved(broken, 6)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    train(tiny_recipe(tiny, "engine.deepspeed=null", *STATES), alone, world_size=1)
    for mine, other in zip(curve(events(alone)), curve(events(whole)), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


def test_other_ranks_and_stages_resume_from_the_same_moments(tiny: Path, tmp_path: Path) -> None:
    moved, whole = tmp_path / "moved", tmp_path / "whole"
    for num_ranks, strategy, num_steps in ((2, "zero1", 2), (3, "zero3", 1), (1, "null", None)):
        stop = stop_after(num_steps) if num_steps else (lambda: None)
        train(tiny_recipe(tiny, f"engine.deepspeed={strategy}", *STATES), moved, world_size=num_ranks, before=stop)
    train(tiny_recipe(tiny, "engine.deepspeed=null", *STATES), whole, world_size=1)
    assert [event["step"] for event in events(moved, "start")] == [0, 2, 3]
    for mine, other in zip(curve(events(moved)), curve(events(whole)), strict=True):
        assert mine == pytest.approx(other, rel=1e-3)
    folder = moved / "checkpoints" / "step-3"
    states = [
        tensor for path in folder.glob("*.safetensors") for tensor in load_file(path).items() if "exp_avg" in tensor[0]
    ]
    assert states and {tensor.dtype for _, tensor in states} == {torch.bfloat16}
