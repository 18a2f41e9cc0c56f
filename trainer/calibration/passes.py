"""How much longer whole passes of models take than the sum of their operations."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from shardtune.planner.forecast.of_recipe import CPU_LOSS_CHUNK
from shardtune.planner.hardware import CPU, memory_only
from shardtune.planner.job import Batch, Cluster, Job, Software, States
from shardtune.planner.measured.calibration import Computing, WholePass
from shardtune.planner.measured.cpu_step import micro_batch
from shardtune.planner.model_shape import shape_of_config
from shardtune.trainer.calibration.timing import Clock
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.target_loss import keep_target_loss
from shardtune.trainer.setup.cpu_attention import fast_attention
from shardtune.trainer.setup.cpu_dropout import fast_dropout

LAYERS = 4
SMALL, LARGE = (64, 16), (384, 64)
"""Hidden size, and tokens of a row; a small pass has two rows."""
LEAST_FACTOR, MOST_FACTOR = 0.5, 3.0
"""Beyond these a measurement was disturbed."""


@dataclass(frozen=True)
class _Sizes:
    hidden: int
    rows: int
    tokens: int


def measure_passes(clock: Clock, precision: str, found: Computing) -> dict[str, WholePass]:
    """Collective: passes of models with random weights, by FAMILIES, beside what the planner adds up for them."""
    large = max(1, clock.effort.tokens // LARGE[1])
    sizes = _Sizes(SMALL[0], 2, SMALL[1]), _Sizes(LARGE[0], large, LARGE[1])
    passes = {}
    with fast_attention(clock.ranks.device), fast_dropout(clock.ranks.device):
        for family, build in (("encoder", _encoder), ("decoder", _decoder)):
            small, whole = (
                (_measured(clock, precision, build, each), _planned(precision, build, each, found)) for each in sizes
            )
            passes[family] = whole_pass(small, whole)
    return passes


def whole_pass(small: tuple[float, float], large: tuple[float, float]) -> WholePass:
    """What explains two passes of LAYERS layers, each given as measured and as planned in seconds."""
    factor = (large[0] - small[0]) / (large[1] - small[1]) if large[1] > small[1] else 1.0
    calls = (small[0] - factor * small[1]) / LAYERS
    if calls < 0 or not LEAST_FACTOR <= factor <= MOST_FACTOR:
        factor = min(max(large[0] / large[1], LEAST_FACTOR), MOST_FACTOR)
        calls = max(0.0, small[0] - factor * small[1]) / LAYERS
    return WholePass(factor, calls)


_Build = Callable[[_Sizes], tuple[Any, Any, dict[str, torch.Tensor]]]
"""Sizes -> the class of a model, its config, and the inputs of a pass."""


def _encoder(sizes: _Sizes) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=2048,
        hidden_size=sizes.hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=sizes.hidden // 32,
        intermediate_size=4 * sizes.hidden,
        max_position_embeddings=128,
    )
    ids = torch.arange(sizes.rows * sizes.tokens).view(sizes.rows, sizes.tokens) % 2048
    mask = torch.ones_like(ids)
    mask[0, -1] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(sizes.rows, dtype=torch.long)}
    return BertForSequenceClassification, config, inputs


def _decoder(sizes: _Sizes) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=sizes.hidden,
        num_hidden_layers=LAYERS,
        num_attention_heads=sizes.hidden // 32,
        num_key_value_heads=sizes.hidden // 32,
        intermediate_size=4 * sizes.hidden,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    ids = torch.arange(sizes.rows * sizes.tokens).view(sizes.rows, sizes.tokens) % 2048
    targets = ids.flatten()
    return (
        LlamaForCausalLM,
        config,
        {"input_ids": ids, "targets": targets, "target_positions": torch.arange(len(targets))},
    )


def _measured(clock: Clock, precision: str, build: _Build, sizes: _Sizes) -> float:
    """Collective: seconds of a forward and a backward pass."""
    model_class, config, inputs = build(sizes)
    model: nn.Module = model_class(config).to(DTYPES[precision]).train()
    if "targets" in inputs:
        keep_target_loss(model, is_chunked=True)  # type: ignore[arg-type]

    def run() -> None:
        output: Any = model(**inputs)
        (output.loss if "labels" in inputs else output.logits[0]).backward()
        for parameter in model.parameters():
            parameter.grad = None

    return clock.each(run)


def _planned(precision: str, build: _Build, sizes: _Sizes, found: Computing) -> float:
    """Seconds of the same by the sum of its operations."""
    _, config, inputs = build(sizes)
    is_classifier = "labels" in inputs
    job = Job(
        shape=shape_of_config(config.to_dict(), num_labels=2 if is_classifier else None),
        states=States(),
        software=Software(dropout=is_classifier, loss_chunk=CPU_LOSS_CHUNK),
        batch=Batch(rows=sizes.rows, tokens=sizes.tokens, losses=1 / sizes.tokens if is_classifier else 1.0),
        cluster=Cluster(gpu=memory_only(CPU, 0.0), gpus_per_node=1),
        precision=precision,
    )
    time = micro_batch(job, replace(found, passes={}))
    return time.forward.total + time.backward.total
