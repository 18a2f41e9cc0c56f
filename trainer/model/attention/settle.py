"""The attention implementation of a run: observed, chosen, and made known to transformers."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import transformers

from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.attention.choice import VARLEN, choose
from shardtune.trainer.model.attention.observe import machine_of, needs_of
from shardtune.trainer.model.attention.varlen import register
from shardtune.trainer.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def settle_attention(
    recipe: Recipe, task: Task, config: "PreTrainedConfig", device: torch.device, say: Callable[[str], None]
) -> str | None:
    """The implementation by its name for transformers; None leaves the choice to it. `say` is told of it.

    `config` is that of the model that will be loaded. Raises ConfigError if model.attention cannot be had here.
    """
    is_packed = task.packable and recipe.data.packing != "off"
    needs = needs_of(getattr(transformers, task.auto_model), config, is_packed=is_packed)
    choice = choose(recipe.model.attention, machine_of(device), needs, recipe.engine.precision)
    if choice.notice is not None:
        say(choice.notice)
    if choice.implementation == VARLEN:
        register()
    return choice.implementation
