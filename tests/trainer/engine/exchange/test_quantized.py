"""Quantized exchanges are refused in words where DeepSpeed cannot compute them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from shardtune.ds_config.devices import refuse_on_cpus
from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import ConfigError, LaunchError
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, value_faults
from shardtune.trainer.engine.exchange.quantized import refuse_uneven_parts
from shardtune.trainer.engine.optimizers import adamw
from shardtune.trainer.setup.precision import settle_precision
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe


@pytest.mark.parametrize(
    ("strategy", "keys"),
    [
        ("zero3_qwz", "zero_quantized_weights"),
        ("zero3_zeropp", "zero_quantized_weights and zero_quantized_gradients"),
    ],
)
def test_cpu_ranks_are_refused_in_one_line(strategy: str, keys: str) -> None:
    ours = tiny_recipe(Path("/"), f"engine.deepspeed={strategy}", "engine.precision=auto")
    with pytest.raises(LaunchError) as error:
        settle_precision(ours, Ranks(0, 1, 0, torch.device("cpu")))
    assert str(error.value) == (
        f"ds_configs/{strategy}.json: {keys}: DeepSpeed quantizes on NVIDIA GPUs only, and these ranks run on CPUs; "
        "set engine.deepspeed=zero3_hpz or zero3"
    )
    for other in ("zero3_hpz", "null"):
        refuse_on_cpus(tiny_recipe(Path("/"), f"engine.deepspeed={other}"))


@pytest.mark.parametrize(("strategy", "precision"), [("zero3_qwz", "bf16"), ("zero3_zeropp", "fp16")])
def test_deepspeeds_own_models_accept_what_only_gpus_run(strategy: str, precision: str) -> None:
    ours = tiny_recipe(Path("/"), f"engine={{deepspeed: {strategy}, precision: {precision}}}")
    config = ds_config_of(ours, hidden_size=8)
    assert config is not None and value_faults(config) == []
    assert value_faults({**config, "zero_optimization": {"stage": 3, "zero_quantized_weights": "some"}})


def faults(ranks: Ranks, width: int, quantized: bool) -> str:
    ours = tiny_recipe(Path("/"), "engine.deepspeed=zero3")
    ds_config: Any = ds_config_of(ours, hidden_size=1)
    model = nn.Sequential(nn.Linear(width, 8), nn.Linear(8, 1))  # the small ones stay whole
    engine = DeepSpeedEngine(model, ds_config, lambda m: adamw(m, ours.optim), ranks=ranks, seed=0)
    try:
        refuse_uneven_parts(engine._engine.module, {"zero_optimization": {"zero_quantized_weights": quantized}})
    except ConfigError as error:
        return str(error)
    return ""


def test_weights_whose_parts_deepspeed_cannot_quantize_are_refused_by_name() -> None:
    expected = (
        "zero_optimization.zero_quantized_weights: 0.weight (8 x 5) is cut into parts of 20 numbers, one for each "
        "rank, and DeepSpeed quantizes multiples of 8 only; set engine.deepspeed=zero3_hpz or zero3, or use another "
        "number of ranks"
    )
    assert run_ranks(faults, 5, True) == [expected, expected]
    assert run_ranks(faults, 4, True) == run_ranks(faults, 5, False) == ["", ""]
