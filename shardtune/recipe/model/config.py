"""The `model` section of a recipe: what is fine-tuned."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shardtune.recipe.model.freeze import refuse_malformed
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.values import Fraction
from shardtune.section import Section

Attention = Literal[
    "auto",
    "eager",
    "sdpa",
    "varlen",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
]


class ModelConfig(Section):
    """The pretrained model to fine-tune."""

    path: str
    """A Hugging Face model folder, or a hub id such as `bert-base-chinese`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id. None uses the hub's default branch."""
    from_scratch: bool = False
    """Uses only config.json and the tokenizer, and initializes the weights at random from train.seed: for new
    architectures, and for languages that no pretrained model covers. Every rank holds the whole model until training
    begins."""
    head: Literal["auto", "keep", "new"] = "auto"
    """The pretrained head of a classification or token_classification model. `auto` keeps it if it has the labels of
    the rows, which then take the order of the head; and draws a new one if it has other labels, or another number of
    them. `keep` refuses to train with a new one, and `new` always draws one."""
    attention: Attention = "auto"
    """The attention implementation. `varlen` is torch's own flash kernel (torch 2.11 and newer), called with the
    borders of the texts, so that neither packed rows nor padding need a mask; the others are those of transformers. On
    a GPU `auto` takes the fastest one that the GPU, the precision, the installed packages and the model allow, and
    reports which; on a CPU it leaves the choice to transformers."""
    dropout: Fraction | None = None
    """Sets every dropout probability in the model's config. None keeps the pretrained values."""
    layerdrop: Fraction | None = None
    """Sets the probability with which a step skips a layer (LayerDrop), in models that can: BART, M2M100, OPT and their
    relatives. The same layers are skipped on all ranks and in all micro-batches of a step. None keeps the pretrained
    values, which are 0 in most models and 0.05 in M2M100."""
    activation_checkpointing: bool = False
    """Recomputes activations in the backward pass: uses less memory, and takes about a third more time."""
    lora: LoraConfig | None = None
    """Trains low-rank adapters (LoRA) instead of all weights, as in `{r: 16}`, or `{}` for the defaults. None trains
    all weights."""
    freeze: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Pretrained weights that are not trained, as in `[embeddings, "layers:0-5"]`: `embeddings` is what precedes the
    first layer, `layers:0-5` are the first six layers (of an encoder and of a decoder), in any architecture. Any other
    pattern is found anywhere in the name of a weight, part by part between the dots, each a glob:
    `encoder.layer.[0-5]`, `layers.*.mlp`, `bias`. They get no gradient and no optimizer state, and are not exchanged.
    What the pretrained model has no weights for, such as a new head, is trained in any case."""

    @property
    def has_quantized_base(self) -> bool:
        """Whether the frozen weights under adapters are held in few bits."""
        return self.lora is not None and self.lora.quantize_base != "none"

    @model_validator(mode="after")
    def _a_kept_head_is_pretrained(self) -> "ModelConfig":
        if self.head == "keep" and self.from_scratch:
            raise ValueError("head: keep needs pretrained weights, but from_scratch has none; remove one of them")
        return self

    @model_validator(mode="after")
    def _frozen_weights_are_pretrained(self) -> "ModelConfig":
        refuse_malformed(self.freeze)
        if self.freeze and self.from_scratch:
            raise ValueError("freeze: needs pretrained weights, but from_scratch has none; remove one of them")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze: adapters (model.lora) freeze all pretrained weights already; remove one of them")
        return self

    @model_validator(mode="after")
    def _adapters_have_a_base(self) -> "ModelConfig":
        if self.lora is not None and self.from_scratch:
            raise ValueError("lora: adapters need pretrained weights, but from_scratch has none; remove one of them")
        return self
