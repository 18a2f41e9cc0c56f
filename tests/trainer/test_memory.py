"""ZeRO's promise (Rajbhandari et al., 2020, section 3): the optimizer states of mixed-precision Adam are K = 12 bytes a
parameter, and from stage 1 on each of N ranks holds one N-th of them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe
from trainer.config.deepspeed import load_ds_config, resolve_ds_config
from trainer.data.batch import Batch
from trainer.engine import DeepSpeedEngine
from trainer.optim import adamw
from trainer.ranks import Ranks

K = 12
"""fp32 master weight, first and second moment: 4 bytes each."""
WIDTH = 64
NUM_PARAMETERS = 4 * WIDTH * (WIDTH + 1)


class Layers(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(*(nn.Linear(WIDTH, WIDTH) for _ in range(4)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.bfloat16()).float().pow(2).sum()


def state_bytes(ranks: Ranks, folder: Path, stage: int) -> int:
    recipe = tiny_recipe(folder, f"engine.deepspeed=zero{stage}", "engine.precision=bf16")
    ds_config = resolve_ds_config(load_ds_config(f"zero{stage}"), recipe, hidden_size=None)
    engine = DeepSpeedEngine(Layers(), ds_config, lambda model: adamw(model, recipe.optim), ranks=ranks, seed=0)
    engine.begin_step(0, num_micro_batches=1)
    engine.backward(engine.forward(Batch({"x": torch.ones(2, WIDTH)}, torch.zeros(2))), num_targets=2)
    engine.step(lr=1e-3)
    return engine.optimizer_state_bytes()


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_optimizer_states_are_divided_among_the_ranks(tmp_path: Path, stage: int, world_size: int) -> None:
    measured = run_ranks(state_bytes, tmp_path, stage, world_size=world_size)
    expected = K * NUM_PARAMETERS / (1 if stage == 0 else world_size)
    # Partitions are padded to equal, aligned sizes: a little more than the formula, never less.
    assert all(0.99 * expected <= its <= 1.03 * expected for its in measured), (measured, expected)
