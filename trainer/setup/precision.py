"""The precision in which all ranks compute, chosen by what their devices support."""

import torch

from shardtune.ds_config.devices import refuse_on_cpus
from shardtune.ds_config.resolve import named_precisions, open_precisions, precision_key
from shardtune.errors import LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks

CPU_UNITS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Names of bf16 units in torch.cpu.get_capabilities, on x86 and on ARM. A CPU without them computes in bf16 too, but
slowly: 7 GFLOP/s instead of 50 in fp32 were measured on an EPYC with AVX2."""


def settle_precision(recipe: Recipe, ranks: Ranks) -> Recipe:
    """Collective: the recipe with `auto` replaced by a precision that the devices of all ranks support.

    The one that the ds_config names, if it does; else bf16 if all of them have units for it; else fp16 on GPUs with
    DeepSpeed, and fp32 otherwise. Raises LaunchError if this device supports neither the precision nor the quantized
    exchanges asked for.
    """
    if ranks.device.type == "cpu":
        refuse_on_cpus(recipe)
    left = open_precisions(recipe)
    if len(left) == 1:
        (settled,) = left
        _refuse_unsupported(settled, recipe, ranks.device)
    else:
        settled = otherwise(ranks.device.type, recipe)
        if "bf16" in left and not ranks.any(not has_bf16(ranks.device.type)):
            settled = "bf16"
    return recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"precision": settled})})


def settle_tf32(recipe: Recipe, device: torch.device) -> str | None:
    """Lets this device multiply in TF32 if engine.tf32 asks for it; returns why that has no effect, if it has none."""
    if not recipe.engine.tf32:
        return None
    if device.type == "cpu":
        return "engine.tf32 has no effect on CPUs"
    if recipe.engine.precision != "fp32":
        return f"engine.tf32 has no effect in {recipe.engine.precision}: only fp32 matrices are multiplied in TF32"
    if not has_bf16(device.type):  # both came with Ampere
        return f"engine.tf32 has no effect: {torch.cuda.get_device_name(device)} cannot compute in TF32"
    torch.set_float32_matmul_precision("high")
    return None


def _refuse_unsupported(precision: str, recipe: Recipe, device: torch.device) -> None:
    key, cure = precision_key(recipe, precision)
    if precision == "fp16" and device.type == "cpu":
        raise LaunchError(f"{key}: fp16 needs a GPU (DeepSpeed does not support it on a CPU); {cure}")
    if precision == "bf16" and device.type == "cuda" and not has_bf16(device.type):
        name = torch.cuda.get_device_name(device)
        raise LaunchError(f"{key}: {name} cannot compute in bf16; {cure}")


def expected_precision(recipe: Recipe) -> str:
    """The precision of a run if the devices of all ranks are like this machine's."""
    device = "cuda" if torch.cuda.is_available() and recipe.job.device != "cpu" else "cpu"
    left = open_precisions(recipe)
    if len(left) == 1:
        return left[0]
    return "bf16" if "bf16" in left and has_bf16(device) else otherwise(device, recipe)


def has_bf16(device: str) -> bool:
    """Whether the device has units for bf16."""
    if device == "cuda":
        supported: bool = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(unit, False) for unit in CPU_UNITS)


def otherwise(device: str, recipe: Recipe) -> str:
    """The precision of devices without bf16 units; fp16 needs the loss scale of DeepSpeed, and may be ruled out."""
    return "fp16" if device == "cuda" and "fp16" in named_precisions(recipe) else "fp32"
