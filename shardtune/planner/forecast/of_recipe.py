"""A recipe, the shape of its model, some machines and the size of its data -> what the planner computes with."""

import math
from dataclasses import dataclass, replace
from typing import Any

from shardtune.ds_config.cluster import Cluster as RankLayout
from shardtune.ds_config.resolve import ds_config_of, open_precisions
from shardtune.errors import ConfigError
from shardtune.planner.frozen import frozen_of
from shardtune.planner.hardware import Gpu
from shardtune.planner.job import Adapters, Batch, Cluster, Job, Software
from shardtune.planner.memory import GpuMemory, gpu_memory
from shardtune.planner.model_shape import ModelShape
from shardtune.planner.strategy import states_of
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe

USEFUL = {"packed": 0.97, "sorted": 0.94, "random": 0.6}
"""The part of the computed tokens that is not padding: packed into rows of data.max_tokens; sorted by length within
data.length_window (94 % were measured, on rows of 8 to 256 tokens); and in random order."""
FILLS = 0.9
"""The part of a rank's memory that `micro_batch_tokens: auto` fills by the planner, whose largest error where it was
compared is 6 % (docs/planner.md). Too much costs a start, too little a micro-batch more per step."""
CPU_LOSS_CHUNK = 2.0**26
"""Bytes of a chunk of logits on a CPU (trainer/model/target_loss.py)."""
MLP_NAMES = ("gate", "up", "down", "fc", "mlp", "dense", "wi", "wo", "w1", "w2", "w3")
ALL_ATTENTION_NAMES = ("k", "o", "out", "key", "dense")


@dataclass(frozen=True)
class DataSize:
    """How much there is to train on."""

    num_rows: float | None = None
    tokens_per_row: float | None = None
    """Tokens of a row on average, after truncation."""
    is_estimated: bool = False
    """Whether the numbers are from a sample of the files, and tokens from their bytes."""
    is_prepared: bool = False
    """Whether the numbers are those of the prepared data of this recipe."""
    attended: float | None = None
    """Mean length of the rows that tokens are in; None if only the mean length of rows is known."""
    useful: float | None = None
    """The part of the computed tokens that is not padding; None if that is not known."""
    dev_tokens: float = 0.0
    """Tokens of dev together, as far as they are known; of test likewise."""
    test_tokens: float = 0.0


@dataclass(frozen=True)
class Planned:
    """The jobs of a recipe: in its largest micro-batch, and in the average one."""

    largest: Job
    average: Job
    tokens_per_step: float
    """Of all ranks, without padding."""
    num_steps: int | None
    """None if neither the recipe nor the data say."""
    micro_batch_tokens: int


def plan_recipe(recipe: Recipe, shape: ModelShape, cluster: Cluster, data: DataSize) -> Planned:
    """The jobs of a recipe. Raises ConfigError if the GPU cannot do what the recipe asks for."""
    precision = precision_on(recipe, cluster.gpu)
    longest = recipe.data.max_tokens
    mean = min(longest, data.tokens_per_row or longest)
    rows = rows_per_step(recipe, mean)
    job = job_of(recipe, shape, cluster, precision)
    is_packed = recipe.task.can_pack and recipe.data.packing != "off" and not shape.is_encoder_decoder
    share = max(1.0, rows / cluster.world_size)
    budget = _budget(recipe, job, share)
    useful = data.useful or USEFUL["packed" if is_packed else "sorted" if recipe.length_window else "random"]
    own = share * mean / useful
    num = max(1, math.ceil(own / budget))
    each = own / num
    most_rows = max(1, min(budget // longest, math.ceil(share * (mean / longest if is_packed else 1))))
    length = min(longest, each) if is_packed else mean
    average = replace(
        _batch(recipe, shape, each / length, length, mean),
        num_micro_batches=num,
        attended=(data.attended or mean) if is_packed else None,
    )
    largest = replace(_batch(recipe, shape, most_rows, longest, longest), num_micro_batches=num)
    return Planned(
        replace(job, batch=largest),
        replace(job, batch=average),
        tokens_per_step=rows * mean,
        num_steps=_num_steps(recipe, rows, data),
        micro_batch_tokens=budget,
    )


def job_of(recipe: Recipe, shape: ModelShape, cluster: Cluster, precision: str) -> Job:
    """The job of a recipe, in micro-batches of one row of data.max_tokens."""
    ranks = RankLayout(cluster.world_size, cluster.gpus_per_node, link=None)
    ds_config = ds_config_of(recipe, hidden_size=shape.hidden, cluster=ranks)
    shares_memory = cluster.gpu.is_cpu and cluster.num_nodes == 1 and cluster.world_size > 1
    states = states_of(ds_config, precision, recipe.engine.communication_data_type, shares_memory=shares_memory)
    held = states.weight * any(recipe.regularize.holding()) + 4 * (recipe.regularize.ewc is not None)
    states = replace(states, held=held)
    if recipe.optim.states == "bf16":
        states = replace(states, moments=4, rounds_moments=True)
    return Job(
        shape=shape,
        states=states if recipe.train.ema_decay is None else replace(states, average=4),
        software=_software(recipe, shape, is_on_cpu=cluster.gpu.is_cpu),
        batch=Batch(rows=1, tokens=recipe.data.max_tokens),
        cluster=cluster,
        precision=precision,
        adapters=None if recipe.model.lora is None else _adapters(recipe.model.lora),
        frozen=frozen_of(recipe.model.freeze, shape),
        copies_base=copies_base(recipe),
        asks_base=recipe.regularize.kl_to_base > 0,
    )


def copies_base(recipe: Recipe) -> bool:
    """Whether each rank needs a copy of the pretrained model: adapters alone can be left out of a pass instead."""
    lora = recipe.model.lora
    return recipe.regularize.kl_to_base > 0 and (lora is None or bool(lora.train_whole))


def memory_on_cpus(recipe: Recipe, shape: ModelShape, cluster: Cluster, precision: str) -> GpuMemory:
    """The memory of a CPU rank in its largest micro-batch; with train.micro_batch_tokens: auto, in one of a row."""
    job, longest = job_of(recipe, shape, cluster, precision), recipe.data.max_tokens
    budget = longest if recipe.train.micro_batch_tokens == "auto" else recipe.train.micro_batch_tokens
    rows = max(1, min(budget // longest, math.ceil(rows_per_step(recipe, longest) / cluster.world_size)))
    batch = replace(_batch(recipe, shape, rows, longest, longest), num_micro_batches=2)
    return gpu_memory(replace(job, batch=batch))


def precision_on(recipe: Recipe, gpu: Gpu) -> str:
    """The precision in which the GPU would compute. Raises ConfigError if it does not have it."""
    left = open_precisions(recipe)
    chosen = left[0] if len(left) == 1 else next((one for one in left if one in gpu.tflops), "fp32")
    if chosen not in gpu.tflops:
        raise ConfigError(
            f"engine.precision: {gpu.name} has no tensor cores for {chosen}; set {' or '.join(gpu.tflops)}"
        )
    return chosen


def rows_per_step(recipe: Recipe, mean: float) -> float:
    """Rows of a step on all ranks, if they have so many tokens on average."""
    if recipe.train.global_batch_tokens is not None:
        return max(1.0, recipe.train.global_batch_tokens / mean)
    return float(recipe.train.global_batch_size)


def _num_steps(recipe: Recipe, rows_per_step: float, data: DataSize) -> int | None:
    if recipe.train.max_steps is not None:
        return recipe.train.max_steps
    if data.num_rows is None:
        return None
    num_rows = max(1.0, data.num_rows * recipe.data.fraction)
    return max(1, round(recipe.train.num_epochs * math.ceil(num_rows / rows_per_step)))


def _software(recipe: Recipe, shape: ModelShape, *, is_on_cpu: bool = False) -> Software:
    return Software(
        loss_chunk=CPU_LOSS_CHUNK if is_on_cpu else Software.loss_chunk,
        attention="eager" if recipe.model.attention == "eager" else "flash",
        activation_checkpointing=recipe.model.activation_checkpointing,
        dropout=shape.has_dropout if recipe.model.dropout is None else recipe.model.dropout > 0,
    )


def _adapters(lora: LoraConfig) -> Adapters:
    common: dict[str, Any] = {"rank": lora.r, "base": lora.quantize_base, "dropout": lora.dropout > 0}
    if lora.targets == "all-linear":
        return Adapters(**common)
    words = {word for name in lora.targets for word in name.removesuffix("_proj").replace(".", "_").split("_")}
    return Adapters(
        **common,
        on_mlp=any(word in MLP_NAMES for word in words),
        on_all_attention=any(word in ALL_ATTENTION_NAMES for word in words),
    )


def _batch(recipe: Recipe, shape: ModelShape, rows: float, tokens: float, mean: float) -> Batch:
    """A micro-batch of so many rows; a classifier has a loss a row, and an encoder-decoder a target as long as the
    source."""
    losses = 1.0
    if recipe.task.has_labels:
        losses = 1 / mean if recipe.task.kind == "classification" else 1.0
    target = tokens if shape.is_encoder_decoder else 0.0
    return Batch(rows=rows, tokens=tokens, target_tokens=target, losses=losses)


def _budget(recipe: Recipe, job: Job, share: float) -> int:
    """Most tokens of a micro-batch: those of the recipe, or the largest number that would fill most of the memory."""
    longest = recipe.data.max_tokens
    if recipe.train.micro_batch_tokens != "auto":
        return recipe.train.micro_batch_tokens
    capacity = job.cluster.gpu.memory_gib * 2**30 * FILLS
    rows = 1
    while rows < share:
        tried = replace(job, batch=_batch(recipe, job.shape, min(rows * 2, math.ceil(share)), longest, longest))
        if gpu_memory(tried).used > capacity:
            break
        rows = min(rows * 2, math.ceil(share))
    return rows * longest
