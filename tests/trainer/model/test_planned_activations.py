"""The planner's bytes of activations are those that the models of transformers keep for their backward pass."""

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
import transformers
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from shardtune.planner.activations import adapter_inputs, ends_bytes, layer_bytes
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Adapters, Batch, Cluster, Job, Software, States
from shardtune.planner.model_shape import shape_of_config
from shardtune.trainer.model.load import DTYPES

ROWS, TOKENS = 2, 64
GATED = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 352}
MODELS: dict[str, dict[str, Any]] = {
    "llama": GATED,
    "qwen3": {**GATED, "head_dim": 32},
    "gemma": {**GATED, "head_dim": 32},
    "mixtral": {**GATED, "num_local_experts": 4, "num_experts_per_tok": 2},
    "bert": {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512},
    "gpt2": {"n_embd": 128, "n_head": 4},
    "opt": {"hidden_size": 128, "num_attention_heads": 4, "ffn_dim": 512, "word_embed_proj_dim": 128},
}


def _kept(
    kind: str,
    num_layers: int,
    precision: str,
    attention: str,
    targets: list[str] | None = None,
    dropout: float = 0.0,
) -> tuple[int, dict[str, Any]]:
    """Bytes that a forward pass keeps, and the model's config."""
    layers = {"n_layer" if kind == "gpt2" else "num_hidden_layers": num_layers}
    config = transformers.AutoConfig.for_model(kind, vocab_size=50, **MODELS[kind], **layers)
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    model = transformers.AutoModel.from_config(config, dtype=DTYPES[precision], attn_implementation=attention).train()
    if targets is not None:
        choice = peft.LoraConfig(r=2, target_modules=targets, lora_dropout=dropout)
        model = peft.get_peft_model(model, choice, autocast_adapter_dtype=False)
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)  # or its memory would be used again, and counted once
        return tensor

    tokens = torch.randint(0, 50, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, **({} if kind == "bert" else {"use_cache": False}))
    return sum(found.values()), config.to_dict()


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_layer_keeps_what_is_planned(kind: str, precision: str) -> None:
    few, config = _kept(kind, 2, precision, "sdpa")
    many, _ = _kept(kind, 4, precision, "sdpa")
    assert _planned(config, precision, Software()) == pytest.approx((many - few) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("targets", "adapters"),
    [
        (["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], Adapters(rank=2)),
        (["q_proj", "v_proj"], Adapters(rank=2, on_mlp=False, on_all_attention=False)),
    ],
)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_frozen_layer_keeps_what_its_adapters_need(targets: list[str], adapters: Adapters, dropout: float) -> None:
    few, config = _kept("llama", 2, "bf16", "sdpa", targets, dropout)
    many, _ = _kept("llama", 4, "bf16", "sdpa", targets, dropout)
    adapters = replace(adapters, dropout=dropout > 0)
    planned = _planned(config, "bf16", Software(), adapters)
    if dropout:  # on a CPU a mask has the model's precision, on a GPU a byte an element
        planned += ROWS * TOKENS * adapter_inputs(shape_of_config(config).stacks[0], adapters)
    assert planned == pytest.approx((many - few) / 2, rel=0.03)


@pytest.mark.parametrize("kind", ["llama", "bert", "gpt2"])
def test_a_model_keeps_what_its_layers_and_its_ends_are_planned_to(kind: str) -> None:
    kept, config = _kept(kind, 2, "bf16", "sdpa")
    job = _job(config, "bf16", Software())
    assert 2 * layer_bytes(job, job.shape.stacks[0]) + ends_bytes(job) == pytest.approx(kept, rel=0.03)


def test_eager_attention_keeps_its_scores() -> None:
    few, config = _kept("llama", 1, "bf16", "eager")
    many, _ = _kept("llama", 3, "bf16", "eager")
    assert _planned(config, "bf16", Software(attention="eager")) == pytest.approx((many - few) / 2, rel=0.1)


def _planned(config: dict[str, Any], precision: str, software: Software, adapters: Adapters | None = None) -> float:
    job = _job(config, precision, software, adapters)
    return layer_bytes(job, job.shape.stacks[0])


def _job(config: dict[str, Any], precision: str, software: Software, adapters: Adapters | None = None) -> Job:
    return Job(
        shape=shape_of_config(config),
        states=States(),
        software=software,
        batch=Batch(rows=ROWS, tokens=TOKENS),
        cluster=Cluster(gpu=find_gpu("h100")),
        precision=precision,
        adapters=adapters,
    )
