"""The `regularize` section of a recipe."""

from typing import Annotated

from pydantic import Field

from shardtune.section import Section


class RegularizeConfig(Section):
    """Terms added to the loss that keep the model near the pretrained one, so that it forgets less."""

    kl_to_base: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """The weight of KL(pretrained || model), in nats, averaged over the same targets as the loss; 0 turns it off. For
    language_modeling, chat and translation. `loss` stays that of the task, and `kl_to_base` is reported beside it. Each
    pass takes another one, of the pretrained model: with LoRA without the adapters, otherwise of a frozen copy, which
    takes the memory of the model's weights once more on each rank (so not under ZeRO-3)."""
