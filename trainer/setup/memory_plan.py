"""The planner's memory of a rank, for a recipe and its model: counted on the meta device, so nothing is allocated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from shardtune.errors import ConfigError
from shardtune.planner.forecast.of_recipe import job_of
from shardtune.planner.hardware import CPU, memory_only
from shardtune.planner.job import Batch, Cluster, Job
from shardtune.planner.memory import GpuMemory, gpu_memory
from shardtune.planner.model_shape import Layers, ModelShape, shape_of_config
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model.head import own_heads
from shardtune.trainer.model.lora import choose
from shardtune.trainer.model.parts.freeze import freeze
from shardtune.trainer.model.pretrained import first_number
from shardtune.trainer.setup.precision import expected_precision
from shardtune.trainer.tasks import Task


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model before it is loaded."""

    shape: ModelShape
    """With as many parameters as the model has without adapters."""
    num_trained: int
    num_added: int
    """Parameters of adapters."""
    loss_per_row: bool
    """Whether a row has a single loss, and not each token."""

    @property
    def num_parameters(self) -> int:
        """All parameters, those of adapters included."""
        return self.shape.num_parameters + self.num_added


def model_size(recipe: Recipe, task: Task, config: Any) -> ModelSize:
    """The size of the recipe's model with the task's head; `config` is that of load_model_config(recipe, task).

    Raises DataError if a pattern of model.freeze matches nothing, or nothing is left to train.
    """
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, task.auto_model).from_config(config)
    num_labels = None if task.wants_target_loss else first_number(config, "num_labels")
    try:
        shape = shape_of_config(config.to_dict(), num_labels=num_labels)
    except ConfigError:
        shape = _similar_shape(config, model, num_labels)
    exact = sum(parameter.numel() for parameter in model.parameters())
    shape = replace(shape, others=shape.others + exact - shape.num_parameters)
    per_row = task.auto_model == "AutoModelForSequenceClassification"
    if (lora := recipe.model.lora) is None:
        return ModelSize(shape, _num_trained(model, recipe, task), 0, per_row)
    adapters = choose(model, lora, task)
    return ModelSize(shape, adapters.num_trained(model, lora.r), adapters.num_added(model, lora.r), per_row)


def _num_trained(model: Any, recipe: Recipe, task: Task) -> int:
    """Number of trained parameters of a model without adapters, whose own head is taken to be new, as it mostly is."""
    if recipe.model.freeze:
        heads = () if task.wants_target_loss else tuple(f"{name}." for name in own_heads(model))
        freeze(model, recipe.model.freeze, new=[name for name, _ in model.named_parameters() if name.startswith(heads)])
    return sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not recipe.model.freeze
    )


def _similar_shape(config: Any, model: nn.Module, num_labels: int | None) -> ModelShape:
    """The shape of an architecture that the planner does not know, as far as its config names the usual sizes: those
    of activations are estimates."""
    text = config.get_text_config()
    hidden = first_number(text, "hidden_size", "d_model", "n_embd", "dim") or 1
    heads = first_number(text, "num_attention_heads", "n_head", "n_heads", "num_heads") or 1
    below = first_number(text, "num_hidden_layers", "encoder_layers", "num_layers", "n_layer", "n_layers") or 1
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    layers = Layers(
        num=below,
        hidden=hidden,
        num_heads=heads,
        num_kv_heads=first_number(text, "num_key_value_heads") or heads,
        head_size=first_number(text, "head_dim", "d_kv") or max(1, hidden // heads),
        mlp_width=first_number(text, "intermediate_size", "encoder_ffn_dim", "ffn_dim", "d_ff") or 4 * hidden,
        is_gated=bool({"gate_proj", "gate_up_proj", "wi_1"} & names),
        is_causal=not text.is_encoder_decoder,
        is_rms_norm=any("RMSNorm" in type(module).__name__ for module in model.modules()),
    )
    stacks = [layers]
    if text.is_encoder_decoder:
        above = first_number(text, "decoder_layers", "num_decoder_layers") or below
        stacks.append(replace(layers, num=above, is_causal=True, side="target", has_cross_attention=True, norms=3))
    vocabulary = first_number(text, "vocab_size") or 1
    return ModelShape(
        name=str(text.model_type),
        stacks=tuple(stacks),
        hidden=hidden,
        vocabulary=vocabulary,
        embeddings=vocabulary * hidden,
        is_tied=bool(getattr(config, "tie_word_embeddings", False)),
        num_labels=num_labels,
    )


def rank_job(recipe: Recipe, size: ModelSize, *, world_size: int) -> Job:
    """What a rank of so many does with a row of data.max_tokens, on devices like this machine's."""
    on_gpu = recipe.job.device != "cpu" and torch.cuda.is_available()
    # A job that has lost a node may have ranks that its nodes cannot be divided by.
    nodes = recipe.job.nodes if world_size % recipe.job.nodes == 0 else 1
    cluster = Cluster(
        gpu=memory_only("cuda" if on_gpu else CPU, 0.0), gpus_per_node=world_size // nodes, num_nodes=nodes
    )
    job = job_of(recipe, size.shape, cluster, expected_precision(recipe))
    if job.frozen is not None:
        num_frozen = float(size.num_parameters - size.num_trained)
        return replace(job, frozen=replace(job.frozen, num_parameters=num_frozen))
    if job.adapters is None:
        return job
    return replace(job, adapters=replace(job.adapters, num_trained=float(size.num_trained)))


def memory_of(job: Job, size: ModelSize, batch: tuple[int, int], *, num_targets: int | None = None) -> GpuMemory:
    """The memory of a step whose largest micro-batch has this shape (rows, longest), and so many targets, or as many as
    can be in it."""
    rows, longest = batch
    if num_targets is None:
        num_targets = rows * (1 if size.loss_per_row else longest)
    target_tokens = longest if size.shape.is_encoder_decoder else 0
    batch_of_job = Batch(
        rows=rows,
        tokens=longest,
        target_tokens=target_tokens,
        losses=num_targets / max(1, rows * longest),
        num_micro_batches=2,  # any step may have several, so that gradients of the first are there in the second
    )
    return gpu_memory(replace(job, batch=batch_of_job))


def grouped(memory: GpuMemory) -> Mapping[str, float]:
    """The terms of the peak that tables show, those of the same thing added up."""
    groups: dict[str, float] = {}
    for name, num_bytes in {**memory.terms, **memory.around}.items():
        group = GROUPS.get(name, name)
        groups[group] = groups.get(group, 0.0) + num_bytes
    return groups


GROUPS = {
    "second copy of weights": "weights",
    "whole vectors": "weights",
    "gathered weights": "weights",
    "gradients on their way": "gradients",
    "buckets": "gradients",
    "offload buffer": "gradients",
    "master weights": "optimizer",
    "optimizer states": "optimizer",
    "offloaded states": "optimizer",
    "pretrained values": "optimizer",
    "update": "optimizer",
    "working memory": "activations",
}
"""Names of terms -> what they are shown under."""
