"""What a rank checks of its device before the model is loaded."""

import torch

from trainer.config.errors import LaunchError
from trainer.config.schema import Recipe
from trainer.ranks import Ranks


def check_device(recipe: Recipe, ranks: Ranks) -> None:
    """Raises LaunchError if this device cannot compute in the recipe's precision."""
    precision = recipe.engine.precision
    if precision == "fp16" and ranks.device.type == "cpu":
        raise LaunchError("engine.precision: fp16 needs a GPU (DeepSpeed has it on no CPU); set bf16 or fp32")
    if precision == "bf16" and ranks.device.type == "cuda" and not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name(ranks.device)
        raise LaunchError(f"engine.precision: {name} cannot compute in bf16; set engine.precision=fp16")
