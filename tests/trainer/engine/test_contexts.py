"""An evaluation or a rehearsal that an exception cuts short leaves the engine as if it had never begun."""

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

STRATEGIES = ["null", "zero0", "zero2", "zero3"]


class Model(nn.Module):
    """With dropout, so that its mode and the random numbers count."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.last = nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop(self.first(x)))
        return out


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def engine_of(model: Model, ranks: Ranks, strategy: str) -> Any:
    ds_config = ds_config_of(tiny_recipe(Path("/"), f"engine.deepspeed={strategy}"), hidden_size=7)
    if ds_config is None:
        return ReplicatedEngine(model, adamw, precision="fp32", max_grad_norm=1.0, ranks=ranks, seed=0)
    return DeepSpeedEngine(model, ds_config, adamw, ranks=ranks, seed=0)


def batch(ranks: Ranks, number: int) -> Batch:
    generator = torch.Generator().manual_seed(10 * number + ranks.rank)
    return Batch({"x": torch.randn(3, 5, generator=generator)}, torch.zeros(3))


def gradient_norms(engine: Any, ranks: Ranks) -> list[float]:
    """Trains three steps of two micro-batches each."""
    norms = []
    for step in range(3):
        engine.begin_step(step, num_micro_batches=2)
        for number in (2 * step, 2 * step + 1):
            engine.backward(engine.forward(batch(ranks, number)).square().sum(), num_targets=12)
        norms.append(engine.step(lr=0.1).grad_norm)
    return norms


def never(engine: Any, ranks: Ranks) -> None:
    pass


def evaluation_cut_short(engine: Any, ranks: Ranks) -> None:
    with pytest.raises(KeyboardInterrupt), engine.evaluating():
        assert not engine.forward(batch(ranks, 7)).requires_grad
        raise KeyboardInterrupt


def rehearsal_cut_short(engine: Any, ranks: Ranks) -> None:
    random_state = torch.random.get_rng_state()
    with pytest.raises(KeyboardInterrupt), engine.rehearsing():
        engine.begin_step(0, num_micro_batches=1)
        engine.backward(engine.forward(batch(ranks, 7)).sum(), num_targets=inf)
        engine.step(lr=0.0)
        engine.begin_step(0, num_micro_batches=2)
        engine.backward(engine.forward(batch(ranks, 8)).sum(), num_targets=inf)
        raise KeyboardInterrupt
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert not engine.snapshot().states, "the optimizer has states of the rehearsal"


def modes_and_norms(
    ranks: Ranks, strategy: str, before: Callable[[Any, Ranks], None]
) -> tuple[bool, bool, bool, list[float]]:
    """Whether model, dropout and autograd are in training mode after `before`, and the norms of a training then."""
    model = Model()
    engine = engine_of(model, ranks, strategy)
    before(engine, ranks)
    modes = model.training, model.drop.training, torch.is_grad_enabled()
    return *modes, gradient_norms(engine, ranks)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_evaluation_or_a_rehearsal_that_is_cut_short_changes_no_training(strategy: str) -> None:
    undisturbed = run_ranks(modes_and_norms, strategy, never)
    assert run_ranks(modes_and_norms, strategy, evaluation_cut_short) == undisturbed
    assert run_ranks(modes_and_norms, strategy, rehearsal_cut_short) == undisturbed
    for is_training, drops, has_gradients, norms in undisturbed:
        assert is_training and drops and has_gradients
        assert len(set(norms)) == 3
