"""Weights that DeepSpeed cannot quantize (ZeRO++): refused in words, before it fails without any."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from shardtune.ds_config.zeropp import WEIGHTS, quantizes
from shardtune.errors import ConfigError

MULTIPLE = 8
"""DeepSpeed (0.19.8, CUDAQuantizer) quantizes numbers in groups of a multiple of so many."""


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
