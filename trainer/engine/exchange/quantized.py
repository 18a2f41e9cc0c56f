"""Where quantized exchanges (ZeRO++) cannot be computed: refused in words, before DeepSpeed fails without any."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from shardtune.ds_config.resolve import load_ds_config, source_of
from shardtune.ds_config.zeropp import WEIGHTS, quantizes
from shardtune.errors import ConfigError, LaunchError
from shardtune.recipe.schema import Recipe

MULTIPLE = 8
"""DeepSpeed (0.19.8, CUDAQuantizer) quantizes numbers in groups of a multiple of so many."""


def refuse_without_gpus(recipe: Recipe, device: str) -> None:
    """Raises LaunchError if the ranks, on this type of device, cannot quantize what the ds_config wants quantized."""
    if recipe.engine.deepspeed is None or device != "cpu":
        return
    if keys := quantizes(load_ds_config(recipe.engine.deepspeed)):
        raise LaunchError(
            f"{source_of(recipe)}: {' and '.join(keys)}: DeepSpeed quantizes on NVIDIA GPUs only, and these ranks run "
            "on CPUs; set engine.deepspeed=zero3_hpz or zero3"
        )


def refuse_uneven_parts(model: nn.Module, ds_config: Mapping[str, Any]) -> None:
    """Raises ConfigError for weights whose parts, one for each rank, cannot be quantized; `model` is in ZeRO-3."""
    if WEIGHTS not in quantizes(ds_config):
        return
    parameters: list[tuple[str, Any]] = [*model.named_parameters()]
    for name, parameter in parameters:
        if (part := parameter.partition_numel()) % MULTIPLE and not parameter.ds_persist:
            shape = " x ".join(map(str, parameter.ds_shape))
            raise ConfigError(
                f"zero_optimization.{WEIGHTS}: {name} ({shape}) is cut into parts of {part} numbers, one for each "
                f"rank, and DeepSpeed quantizes multiples of {MULTIPLE} only; set engine.deepspeed=zero3_hpz or zero3, "
                "or use another number of ranks"
            )
