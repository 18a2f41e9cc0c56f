"""What torch.compile compiles in a model, in place: names of parameters and modules stay.

The forward methods are compiled, not the calls of the modules: hooks stay outside, such as those by which ZeRO-3
gathers a layer's weights, our loss takes its targets (trainer/model/target_loss.py) and passes are timed.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shape_config

from shardtune.errors import ConfigError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.layer_drop import describe_layer_drop
from shardtune.trainer.setup.compiler.blocks import repeated_blocks
from shardtune.trainer.setup.compiler.compilations import uncompiled

BACKEND = "inductor"


def parts_to_compile(recipe: Recipe, model: Any) -> Sequence[nn.Module]:
    """The modules whose forward methods are compiled; none if engine.compile is off. Raises ConfigError."""
    how = recipe.engine.compile
    if how == "off":
        return ()
    if how == "full":
        if describe_layer_drop(model) is not None:
            raise ConfigError(
                "engine.compile: full is not possible while steps skip layers (LayerDrop); set "
                "engine.compile=regional, or model.layerdrop=0"
            )
        return (getattr(model, "base_model", model),)
    blocks = repeated_blocks(model)
    if not blocks:
        raise ConfigError(
            f"engine.compile: no repeated layers were found in {type(model).__name__}; set engine.compile=full or off"
        )
    return blocks


def compile_parts(model: Any, parts: Sequence[nn.Module]) -> None:
    """Compiles the forward methods of these modules when they are first called; the model generates without.

    All sizes are dynamic: otherwise each length would be compiled first for itself. Modules of one class share the
    compiled code.
    """
    # Sizes that happen to be equal in the first micro-batch, such as a length and the hidden size, may differ later.
    shape_config.use_duck_shape = False
    for part in parts:
        part.forward = torch.compile(part.forward, dynamic=True, backend=BACKEND)
    if parts and hasattr(model, "generate"):
        model.generate = _uncompiled(model.generate)


def describe_parts(parts: Sequence[nn.Module]) -> str:
    """`24 x LlamaDecoderLayer` for modules of one class."""
    counts = Counter(type(part).__name__ for part in parts)
    return " and ".join(name if number == 1 else f"{number} x {name}" for name, number in counts.items())


def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, run without compiled code: an answer has another length at each of its tokens."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with uncompiled():
            return function(*args, **kwargs)

    return run
