"""Estimate of one rank's memory from the model's config only: nothing is loaded or allocated."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shardtune.ds_config.cluster import Cluster
from shardtune.ds_config.fill import PARTITION
from shardtune.ds_config.resolve import adds_up_in_fp32, ds_config_of
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.pretrained import first_number
from shardtune.trainer.tasks import Task

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Footprint:
    """Bytes on one rank, without the CUDA context, communication buffers and fragmentation: some GB on a GPU."""

    num_parameters: int
    num_trained: int
    """Number of parameters that have a gradient and optimizer states."""
    weights: int
    gradients: int
    optimizer: int
    """AdamW's two moments and, in half precision, the fp32 master weights; on the CPU if they are offloaded."""
    activations: int
    logits: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def footprint(
    recipe: Recipe, task: Task, config: Any, *, stage: int, world_size: int, batch: tuple[int, int], num_targets: int
) -> Footprint:
    """The footprint of a step whose largest micro-batch has the shape `batch` (rows, longest), on world_size ranks.

    Model states as in Rajbhandari et al., 2020 (ZeRO, section 3.1), but with gradients that are added up in fp32 unless
    the ds_config says otherwise: 2 + 4 + 12 bytes a parameter in half precision, 4 + 4 + 8 in fp32; 1/N of the
    optimizer's from stage 1 on, of the gradients from 2, of the weights at 3, and a second copy of these, divided among
    the ranks of a machine, with zero_hpz_partition_size. What model.lora does not train has weights only.
    Activations as in Korthikanti et al., 2023 (section 4): 34 bytes for each token, layer and hidden unit in half
    precision, without the attention scores, which sdpa and flash attention do not keep; 2 with activation
    checkpointing, and one whole layer. Logits: three copies in fp32 (loss, softmax, gradient) and one in the
    model's precision; for a vocabulary, those of a chunk (trainer/model/target_loss.py).
    """
    import torch
    import transformers

    from shardtune.trainer.model.lora import choose
    from shardtune.trainer.model.target_loss import targets_at_once
    from shardtune.trainer.setup.precision import expected_precision

    with torch.device("meta"):
        model = getattr(transformers, task.auto_model).from_config(config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if (lora := recipe.model.lora) is not None:
        adapters = choose(model, lora, task)
        trained = adapters.num_trained(model, lora.r)
        parameters += adapters.num_added(model, lora.r)
    each = BYTES[expected_precision(recipe)]
    states = 12 if each == 2 else 8
    cluster = Cluster(world_size, max(1, world_size // recipe.job.nodes), None)
    ds_config = ds_config_of(recipe, hidden_size=None, cluster=cluster) or {}
    of_gradient = BYTES["fp32"] if not ds_config or adds_up_in_fp32(ds_config) else each
    rows, longest = batch
    text = config.get_text_config()
    hidden = first_number(text, "hidden_size", "d_model")
    layers = first_number(text, "num_hidden_layers", "num_layers") + first_number(
        text, "decoder_layers", "num_decoder_layers"
    )
    layer = rows * longest * hidden * 34 * each // 2
    kept = rows * longest * hidden * each
    activations = layers * kept + layer if recipe.model.activation_checkpointing else layers * layer
    width = first_number(text, "vocab_size") if task.wants_target_loss else first_number(config, "num_labels")
    if task.wants_target_loss:
        num_targets = min(num_targets, targets_at_once(width, "cuda" if torch.cuda.is_available() else "cpu"))
    return Footprint(
        num_parameters=parameters,
        num_trained=trained,
        weights=sum(parameters * each // parts for parts in _divisions(ds_config, world_size, stage)),
        gradients=trained * of_gradient // (world_size if stage >= 2 else 1),
        optimizer=trained * states // (world_size if stage >= 1 else 1),
        activations=activations,
        logits=num_targets * width * (3 * 4 + each),
    )


def _divisions(ds_config: Mapping[str, Any], world_size: int, stage: int) -> list[int]:
    """Into how many parts the weights are divided, for each copy of them."""
    second = ds_config.get("zero_optimization", {}).get(PARTITION, 1)
    return [world_size if stage >= 3 else 1, *([second] if second > 1 else [])]


def largest_footprint(
    recipe: Recipe, task: Task, config: Any, *, stage: int, world_size: int, batch: tuple[int, int]
) -> Footprint:
    """The footprint of a step whose largest micro-batch has this shape and as many targets as can be in it."""
    rows, longest = batch
    num_targets = rows * (longest if task.wants_target_loss else 1)
    return footprint(recipe, task, config, stage=stage, world_size=world_size, batch=batch, num_targets=num_targets)
