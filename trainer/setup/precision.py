"""The precision in which all ranks compute, chosen by what their devices support."""

import torch

from shardtune.errors import LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks

CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names of bf16 units in torch.cpu.get_capabilities, on x86 and on ARM. A CPU without them computes in bf16 too, but
slowly: 7 GFLOP/s instead of 50 in fp32 were measured on an EPYC with AVX2."""


def settle_precision(recipe: Recipe, ranks: Ranks) -> Recipe:
    """Collective: the recipe with `auto` replaced by a precision that the devices of all ranks support.

    bf16 if all of them have units for it; else fp16 on GPUs with DeepSpeed, and fp32 otherwise. Raises LaunchError if
    this device does not support the recipe's precision.
    """
    precision, device = recipe.engine.precision, ranks.device.type
    if precision == "fp16" and device == "cpu":
        raise LaunchError(
            "engine.precision: fp16 needs a GPU (DeepSpeed does not support it on a CPU); set auto, bf16 or fp32"
        )
    if precision == "bf16" and device == "cuda" and not has_bf16(device):
        name = torch.cuda.get_device_name(ranks.device)
        raise LaunchError(f"engine.precision: {name} cannot compute in bf16; set engine.precision=auto")
    if precision != "auto":
        return recipe
    settled = otherwise(device, recipe) if ranks.any(not has_bf16(device)) else "bf16"
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": settled})})


def expected_precision(recipe: Recipe) -> str:
    """The precision of a run if the devices of all ranks are like this machine's."""
    device = "cuda" if torch.cuda.is_available() and recipe.job.device != "cpu" else "cpu"
    precision: str = recipe.engine.precision
    return precision if precision != "auto" else "bf16" if has_bf16(device) else otherwise(device, recipe)


def has_bf16(device: str) -> bool:
    """Whether the device has units for bf16."""
    if device == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in CPU_UNITS)


def otherwise(device: str, recipe: Recipe) -> str:
    """The precision of devices without bf16 units; without DeepSpeed there is no loss scale for fp16."""
    return "fp16" if device == "cuda" and recipe.engine.deepspeed is not None else "fp32"
