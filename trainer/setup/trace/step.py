"""The real step of a model, run on tensors without values, and the bytes that it holds at its peak.

torch follows the shapes through every operation of the forward pass, the backward pass and the update
(FakeTensorMode), and each storage that is alive is counted: no weights are read, nothing is computed, and no
GPU is needed.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy
from transformers import masking_utils

from shardtune.planner.job import Job
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model import target_loss
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.lora import adapt, choose
from shardtune.trainer.model.parts.freeze import freeze
from shardtune.trainer.model.quantized.loading import quantize_empty
from shardtune.trainer.setup.trace.storages import StorageCounter
from shardtune.trainer.tasks import Task

KINDS = ("parameters", "gradients", "optimizer", "activations", "temporary")
"""What a traced tensor is: master weights are the optimizer's; `temporary` is what is new in the backward pass (with
activation checkpointing also what it computes again) and in the update."""


ATTENTION_DROPOUTS = {"attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"}
"""Names in configs of the probability with which scores are dropped out."""
MASK_QUESTIONS = {
    "_ignore_causal_mask_sdpa": True,
    "_ignore_bidirectional_mask_sdpa": True,
    "find_packed_sequence_indices": None,
}
"""What transformers (5.23) asks of a batch's masks -> the answer."""


@dataclass(frozen=True)
class _Wants:
    """What of a task decides where adapters are."""

    wants_target_loss: bool


def trace_step(recipe: Recipe, config: Any, job: Job) -> dict[str, int]:
    """Kind -> bytes of tensors at the peak of a step of the model with this config, on one rank that has everything
    (ZeRO stage 0), in micro-batches of job.batch: `parameters`, `gradients`, `optimizer`, `activations`, `temporary`.

    Attention is that of torch, whose memory is that of flash attention, or eager if the recipe asks for it. Packed rows
    are traced as rows of their whole length: kernels that keep examples apart need no mask.
    """
    model = _model(recipe, config, job)
    with FakeTensorMode(), _chunks_of(job.software.loss_chunk), _no_masks():
        _give_storage(model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        masters = _masters(trained)
        optimizer = _optimizer(masters)
        inputs, targets = _micro_batch(config, job, takes_targets=_has_vocabulary(recipe))
        counter = StorageCounter("activations")
        counter.know("parameters", (*model.parameters(), *model.buffers()))
        counter.know("optimizer", (m for m, p in zip(masters, trained, strict=True) if m is not p))
        counter.know("optimizer", (value for state in optimizer.state.values() for value in state.values()))
        counter.know_gradients("gradients", trained)
        with counter:
            for _ in range(min(2, math.ceil(job.batch.num_micro_batches))):
                counter.kind = "activations"
                loss = _loss(model(**inputs), targets)
                counter.kind = "temporary"
                loss.backward()  # type: ignore[no-untyped-call]
                del loss
            _update(trained, masters, optimizer)
    return {kind: counter.peak[kind] for kind in KINDS}


@contextmanager
def _chunks_of(num_bytes: float) -> Iterator[None]:
    """Makes the loss compute in chunks of a GPU's size on the CPU, where tensors without values are."""
    before = target_loss.CHUNK_BYTES["cpu"]
    target_loss.CHUNK_BYTES["cpu"] = int(num_bytes)
    try:
        yield
    finally:
        target_loss.CHUNK_BYTES["cpu"] = before


@contextmanager
def _no_masks() -> Iterator[None]:
    """Tells transformers that no row is padded, and each is one text: it would ask the values, which are not there."""
    names = [name for name in MASK_QUESTIONS if hasattr(masking_utils, name)]
    before = {name: getattr(masking_utils, name) for name in names}
    for name in names:
        setattr(masking_utils, name, lambda *_, answer=MASK_QUESTIONS[name], **__: answer)
    try:
        yield
    finally:
        for name in names:
            setattr(masking_utils, name, before[name])


def _has_vocabulary(recipe: Recipe) -> bool:
    return not recipe.task.has_labels


def _auto_model(recipe: Recipe, config: Any) -> Any:
    """The class of transformers that the task would load."""
    kind = recipe.task.kind
    if recipe.task.has_labels:
        return getattr(transformers, f"AutoModelFor{'Sequence' if kind == 'classification' else 'Token'}Classification")
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    is_causal = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    is_masked = kind == "language_modeling" and getattr(recipe.task, "objective", None) == "masked"
    return transformers.AutoModelForCausalLM if is_causal and not is_masked else transformers.AutoModelForMaskedLM


def _model(recipe: Recipe, config: Any, job: Job) -> Any:
    """The model on the meta device, with adapters, what is frozen, the loss and checkpointing as the recipe says."""
    attention = "eager" if job.software.attention == "eager" else "sdpa"
    if attention == "sdpa":  # with dropout torch would keep the scores on a CPU, which flash attention never does
        config = copy.deepcopy(config)
        for name in ATTENTION_DROPOUTS & vars(config).keys():
            setattr(config, name, 0.0)
    how = {"dtype": DTYPES[job.precision], "attn_implementation": attention}
    with torch.device("meta"):
        model = _auto_model(recipe, config).from_config(config, **how)
    if (lora := recipe.model.lora) is not None:
        adapters = choose(model, lora, cast(Task, _Wants(_has_vocabulary(recipe))))
        if lora.quantize_base != "none":
            quantize_empty(model, adapters.frozen, lora.quantize_base)
        adapt(model, lora, adapters, seed=0)
    if recipe.model.freeze:
        freeze(model, recipe.model.freeze)
    if _has_vocabulary(recipe):
        head, text = model.get_output_embeddings(), config.get_text_config()
        is_changed = hasattr(model, "final_logits_bias") or getattr(text, "final_logit_softcapping", None)
        is_chunked = type(head) is nn.Linear and not is_changed and job.precision != "fp16"
        target_loss.keep_target_loss(model, is_chunked=is_chunked)
    if recipe.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _give_storage(model: nn.Module) -> None:
    """Replaces the model's tensors on the meta device by new ones of the present mode, which have storages to count;
    those that are shared stay so. (Module.to_empty would not keep them shared.)"""
    new: dict[int, Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if id(old) not in new:
                    empty = torch.empty(tuple(old.shape), dtype=old.dtype)
                    is_parameter = isinstance(old, nn.Parameter)
                    new[id(old)] = nn.Parameter(empty, requires_grad=old.requires_grad) if is_parameter else empty
                tensors[name] = new[id(old)]  # type: ignore[assignment]


def _masters(trained: list[nn.Parameter]) -> list[Tensor]:
    """What the optimizer updates: fp32 copies of parameters in half precision, whose gradients are added up in fp32."""
    masters: list[Tensor] = []
    for parameter in trained:
        if parameter.dtype == torch.float32:
            masters.append(parameter)
        else:
            parameter.grad_dtype = torch.float32
            masters.append(nn.Parameter(parameter.detach().float()))
    return masters


def _optimizer(masters: list[Tensor]) -> torch.optim.Optimizer:
    """AdamW with its moments, as after the first step."""
    optimizer = torch.optim.AdamW(masters, fused=True)
    for master in masters:
        master.grad = torch.zeros_like(master)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _micro_batch(config: Any, job: Job, *, takes_targets: bool) -> tuple[dict[str, Any], Tensor | None]:
    """The arguments of a forward pass, and the labels if the model does not take them itself."""
    rows, batch = max(1, round(job.batch.rows)), job.batch
    shape, num_losses = (rows, round(batch.tokens)), max(1, round(job.num_losses))
    inputs: dict[str, Any] = {"input_ids": torch.zeros(shape, dtype=torch.long)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.zeros(rows, round(batch.target_tokens), dtype=torch.long)
    targets = torch.zeros(num_losses, dtype=torch.long)
    if takes_targets:
        return inputs | {"targets": targets, "target_positions": torch.arange(num_losses)}, None
    return inputs, targets


def _loss(output: Any, targets: Tensor | None) -> Tensor:
    if targets is None:
        loss: Tensor = output.logits[0]
        return loss
    return cross_entropy(output.logits.flatten(0, -2).float(), targets, reduction="sum")


@torch.no_grad()
def _update(trained: list[nn.Parameter], masters: list[Tensor], optimizer: torch.optim.Optimizer) -> None:
    for parameter, master in zip(trained, masters, strict=True):
        if master is not parameter:
            master.grad, parameter.grad = parameter.grad, None
    torch.nn.utils.clip_grad_norm_(masters, 1.0)
    optimizer.step()
    for parameter, master in zip(trained, masters, strict=True):
        if master is not parameter:
            parameter.copy_(master)
    optimizer.zero_grad()
