"""The `optim` section of a recipe: the optimizer and the schedule of its learning rate."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from shardtune.recipe.values import Fraction
from shardtune.section import Section


class OptimConfig(Section):
    """The optimizer and the learning rate schedule."""

    kind: Literal["adamw"] = "adamw"
    """AdamW (Loshchilov and Hutter, 2019). Norms and biases have no weight decay."""
    states: Literal["fp32", "bf16"] = "fp32"
    """How AdamW's two moments are kept. `bf16` takes 4 bytes less for each trained parameter, of GPU memory and of
    checkpoints; they are rounded stochastically, so that small changes are not lost, and the weights stay in fp32. The
    noise is about that of a slightly smaller batch; the update itself is a series of operations instead of one, and
    slower."""
    lr: PositiveFloat = 5e-5
    """Peak learning rate, reached after warm-up."""
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    """Decay rates of AdamW's first and second moments."""
    eps: PositiveFloat = 1e-8
    """Added to AdamW's denominator for numerical stability."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Layer-wise learning rates: each layer learns at this factor of the rate of the layer above it. The last layer has
    lr * layer_decay, the first of L layers lr * layer_decay^L, embeddings lr * layer_decay^(L + 1); a head, new weights
    and what comes after the layers have the whole lr. Encoder and decoder count their own layers."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay of weight matrices and embeddings."""
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are clipped to this global norm. 0 turns clipping off."""
    schedule: Literal["linear", "cosine", "constant", "wsd"] = "linear"
    """The learning rate after warm-up: linear or cosine decay to min_lr_ratio; constant; or wsd (warm-up, stable,
    decay), constant until the last decay_fraction of the steps, then linear decay."""
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    """Steps over which the learning rate rises linearly from 0."""
    warmup_fraction: Fraction | None = None
    """Warm-up as a fraction of all steps. Set either this or warmup_steps; without both there is no warm-up."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """For schedule wsd: the fraction of all steps over which the learning rate decays."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate, as a fraction of lr."""

    @model_validator(mode="after")
    def _one_warmup(self) -> "OptimConfig":
        if self.warmup_steps is not None and self.warmup_fraction is not None:
            raise ValueError("warmup_steps and warmup_fraction are both set; keep one of them")
        return self
