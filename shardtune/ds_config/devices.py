"""What a ds_config asks for that CPU ranks cannot compute."""

from shardtune.ds_config.resolve import load_ds_config, source_of
from shardtune.ds_config.zeropp import quantizes
from shardtune.errors import LaunchError
from shardtune.recipe.schema import Recipe
from shardtune.recipe.strategies import AUTO


def refuse_on_cpus(recipe: Recipe) -> None:
    """Raises LaunchError if ranks on CPUs cannot quantize what the ds_config wants quantized. Raises ConfigError."""
    if recipe.engine.deepspeed in (None, AUTO):  # whose strategies quantize nothing
        return
    if keys := quantizes(load_ds_config(recipe.engine.deepspeed)):
        raise LaunchError(
            f"{source_of(recipe)}: {' and '.join(keys)}: DeepSpeed quantizes on NVIDIA GPUs only, and these ranks run "
            "on CPUs; set engine.deepspeed=zero3_hpz or zero3"
        )
