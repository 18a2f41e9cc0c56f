"""What a recipe says of LoRA: the `model.lora` section."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from shardtune.section import Section

Name = Annotated[str, Field(min_length=1)]

Targets = Annotated[
    Annotated[Literal["all-linear"], Tag("word")] | Annotated[tuple[Name, ...], Tag("list")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "list"),
]
"""Names of modules, or all of a kind. Told apart beforehand, so that a wrong value is one fault and not two."""


class LoraConfig(Section):
    """Low-rank adapters (LoRA, Hu et al., 2021): the pretrained weights stay as they are, and beside each chosen linear
    layer two small matrices are trained, whose product is added to it. Optimizer and checkpoints hold these alone. They
    want a higher optim.lr than full fine-tuning, about ten times; nothing else of a recipe changes."""

    r: PositiveInt = 16
    """The rank of the added matrices: r * (inputs + outputs) weights are trained of each layer."""
    alpha: PositiveFloat = 32.0
    """What is added is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The probability with which an adapter's inputs are left out of a training step."""
    targets: Targets = "all-linear"
    """The layers that get an adapter: `all-linear` is every linear layer but the last, or a list of the ends of their
    names, as in `[q_proj, v_proj]`."""
    train_whole: tuple[Name, ...] = ()
    """Modules that are trained as a whole instead, by the ends of their names, as in `[embed_tokens]`. The head of a
    classification is one in any case, and so is what the pretrained model has no weights for."""

    @model_validator(mode="after")
    def _targets_are_named(self) -> "LoraConfig":
        if self.targets == ():
            raise ValueError("targets: the list is empty; name layers, or write all-linear")
        return self
