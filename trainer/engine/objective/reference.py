"""The pretrained model, asked about a batch while another is trained from it.

With LoRA it is the model without its adapters, and takes no memory. Where other weights are trained, a frozen copy.
"""

import copy
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from shardtune.ds_config.resolve import stage_of
from shardtune.errors import ConfigError
from shardtune.planner.forecast.of_recipe import copies_base
from shardtune.recipe.schema import Recipe
from shardtune.trainer.engine.engine import Inference
from shardtune.trainer.model.divergence import BaseTargets
from shardtune.trainer.model.known_masks import masks_known
from shardtune.trainer.model.lora import adapters_off, trains_adapters_alone
from shardtune.trainer.model.target_loss import plain_layer
from shardtune.trainer.tasks.batch import Batch


class Reference(Protocol):
    """The pretrained model."""

    def targets(self, batch: Batch) -> BaseTargets:
        """Collective: what it computes for the batch's targets, without dropout and without gradients."""


class AdaptersOff:
    """The model itself, without its adapters. Nothing else in it is trained."""

    def __init__(self, engine: Inference, model: nn.Module) -> None:
        self._engine, self._model = engine, model

    def targets(self, batch: Batch) -> BaseTargets:
        # Within an evaluation it is in this mode already, and has to stay in it.
        # Its adapters are off, so their average need not be put in their place in each micro-batch.
        calm: AbstractContextManager[Any] = (
            self._engine.evaluating(averaged=False) if self._model.training else torch.no_grad()
        )
        with calm, adapters_off(self._model):
            return BaseTargets(self._engine.forward(batch.with_hidden_of_targets()).logits)


class FrozenCopy:
    """A copy of the model as it is now, whole on each rank, in the precision of the passes."""

    def __init__(self, model: Any, batch: Batch) -> None:
        """The batch is any one: by it the copy shows whether it computes logits in chunks, and never all of them."""
        self._model = copy.deepcopy(model).to(batch.labels.device).eval().requires_grad_(False)
        self._layer = plain_layer(self._model.get_output_embeddings())
        with torch.no_grad():
            self._model(**batch.inputs)

    @property
    def note(self) -> str:
        """What it takes, a line for the user."""
        num_bytes = sum(values.nbytes for values in (*self._model.parameters(), *self._model.buffers()))
        return (
            f"regularize.kl_to_base: each rank holds a frozen copy of the pretrained model ({num_bytes / 1e6:,.1f} "
            "MB), and each micro-batch takes a forward pass of it"
        )

    def targets(self, batch: Batch) -> BaseTargets:
        with torch.no_grad(), masks_known(batch):
            hidden = self._model(**batch.with_hidden_of_targets().arrived().inputs).logits
        return BaseTargets(hidden, self._layer.weight, self._layer.bias)


def copy_of_base(recipe: Recipe, model: Any, batch: Batch) -> FrozenCopy | None:
    """A copy of the pretrained model, which is yet to be trained, if regularize.kl_to_base needs one.

    Raises ConfigError under ZeRO-3, where no rank has room for the whole model.
    """
    if not recipe.regularize.kl_to_base or trains_adapters_alone(model):
        return None
    if stage_of(recipe) == 3:
        raise ConfigError(SHARDED)
    return FrozenCopy(model, batch)


def refuse_sharded_copy(recipe: Recipe) -> None:
    """Raises ConfigError if regularize.kl_to_base asks for a copy of the whole model under ZeRO-3."""
    if copies_base(recipe) and stage_of(recipe) == 3:
        raise ConfigError(SHARDED)


SHARDED = (
    "regularize.kl_to_base: each rank needs a frozen copy of the whole pretrained model, which is against the purpose "
    "of ZeRO-3; set engine.deepspeed=zero2, or train adapters alone (model.lora), which need no copy"
)
