"""In which precision this device computes, and with it all ranks."""

import torch

from shardtune.errors import LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks

CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""What torch.cpu.get_capabilities calls units for bf16, on x86 and on ARM. Without them a CPU computes in bf16 as well,
but slowly: 7 GFLOP/s for fp32's 50 were seen on an EPYC with AVX2."""


def settle_precision(recipe: Recipe, ranks: Ranks) -> Recipe:
    """Collective: the recipe with a precision that all ranks' devices compute in, in the stead of `auto`.

    bf16 if all of them have units for it; else fp16 on GPUs, but not without DeepSpeed, and fp32 on CPUs. Raises
    LaunchError if the recipe wants what this device cannot.
    """
    precision, device = recipe.engine.precision, ranks.device.type
    if precision == "fp16" and device == "cpu":
        raise LaunchError("engine.precision: fp16 needs a GPU (DeepSpeed has it on no CPU); set auto, bf16 or fp32")
    if precision == "bf16" and device == "cuda" and not has_bf16(device):
        name = torch.cuda.get_device_name(ranks.device)
        raise LaunchError(f"engine.precision: {name} cannot compute in bf16; set engine.precision=auto")
    if precision != "auto":
        return recipe
    settled = otherwise(device, recipe) if ranks.any(not has_bf16(device)) else "bf16"
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": settled})})


def expected_precision(recipe: Recipe) -> str:
    """What it will be if all ranks' devices are like this machine's."""
    device = "cuda" if torch.cuda.is_available() and recipe.job.device != "cpu" else "cpu"
    precision: str = recipe.engine.precision
    return precision if precision != "auto" else "bf16" if has_bf16(device) else otherwise(device, recipe)


def has_bf16(device: str) -> bool:
    """Whether there are units for bf16."""
    if device == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in CPU_UNITS)


def otherwise(device: str, recipe: Recipe) -> str:
    """What is computed in where there are none; without DeepSpeed there is no loss scale for fp16."""
    return "fp16" if device == "cuda" and recipe.engine.deepspeed is not None else "fp32"
