"""The `model.lora` section of a recipe."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from shardtune.section import Section

Name = Annotated[str, Field(min_length=1)]

Targets = Annotated[
    Annotated[Literal["all-linear"], Tag("word")] | Annotated[tuple[Name, ...], Tag("list")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "list"),
]
"""Names of modules, or all of a kind. The discriminator makes a wrong value one fault instead of two."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA, Hu et al., 2021): the pretrained weights are frozen, and for each target layer the
    product of two small trained matrices is added to its output. Optimizer state and checkpoints contain only these.
    LoRA usually needs a higher optim.lr than full fine-tuning, about ten times; nothing else in a recipe has to
    change."""

    r: PositiveInt = 16
    """Rank of the adapter matrices: each layer gets r * (inputs + outputs) trained weights."""
    alpha: PositiveFloat = 32.0
    """The adapter's output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout probability of the adapter's input during training."""
    targets: Targets = "all-linear"
    """The layers that get an adapter: `all-linear` is every linear layer but the last; or a list of name suffixes, as
    in `[q_proj, v_proj]`."""
    train_whole: tuple[Name, ...] = ()
    """Modules that are trained in full, by name suffix, as in `[embed_tokens]`. The head of a classifier, and any
    module for which the pretrained model has no weights, is always trained in full."""

    quantize_base: Literal["none", "nf4", "int8"] = "none"
    """Holds the frozen linear layers in few bits, and restores their weights for each product; embeddings, norms,
    heads, experts and the last layer stay as they are. `nf4` is QLoRA (Dettmers et al., 2023): 4 bits and 0.13 for
    scales, with double quantization, by bitsandbytes (`pip install 'shardtune[quantized]'`). `int8` has 8 bits and a
    scale for each row, and needs no other package; inputs are not quantized. Adapters learn around the rounded weights:
    the result is close to that of `none`, and not the same. Not under ZeRO-3."""

    @model_validator(mode="after")
    def _targets_are_named(self) -> "LoraConfig":
        if self.targets == ():
            raise ValueError("targets: the list is empty; name layers, or write all-linear")
        return self
