"""The real step of a model, run on tensors without values, and the bytes that it holds at its peak.

torch follows the shapes through every operation of the forward pass, the backward pass and the update
(FakeTensorMode), and counts each storage that is alive (MemTracker): no weights are read, nothing is computed, and no
GPU is needed.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import cross_entropy

from shardtune.planner.job import Job
from shardtune.recipe.schema import Recipe
from shardtune.trainer.model import target_loss
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.model.lora import adapt, choose
from shardtune.trainer.tasks import Task

KINDS: Mapping[str, str] = {
    "Parameter": "parameters",
    "Buffer": "parameters",
    "Gradient": "gradients",
    "Optstate": "optimizer",
    "Other": "optimizer",
    "Activation": "activations",
    "Temp": "temporary",
}
"""MemTracker's kinds -> ours. What it is told of besides modules and optimizers are the master weights."""


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
    from torch.distributed._tools.mem_tracker import MemTracker

    with FakeTensorMode(), _chunks_of(job.software.loss_chunk):
        model = _model(recipe, config, job)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        masters = _masters(trained)
        optimizer = _optimizer(masters)
        inputs, targets = _micro_batch(config, job, takes_targets=_has_vocabulary(recipe))
        tracker: Any = MemTracker()
        tracker.track_external(model, optimizer, *(m for m, p in zip(masters, trained, strict=True) if m is not p))
        with tracker:
            for _ in range(min(2, int(job.batch.num_micro_batches))):
                tracker.reset_mod_stats()  # those of single modules, which are not asked for
                _loss(model(**inputs), targets).backward()  # type: ignore[no-untyped-call]
            _update(trained, masters, optimizer)
        peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    found = dict.fromkeys(KINDS.values(), 0)
    for kind, size in peak.items():
        if (name := KINDS.get(getattr(kind, "value", kind))) is not None:
            found[name] += size
    return found


@contextmanager
def _chunks_of(num_bytes: float) -> Iterator[None]:
    """Makes the loss compute in chunks of a GPU's size on the CPU, where tensors without values are."""
    before = target_loss.CHUNK_BYTES["cpu"]
    target_loss.CHUNK_BYTES["cpu"] = int(num_bytes)
    try:
        yield
    finally:
        target_loss.CHUNK_BYTES["cpu"] = before


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
    """The model in training, with adapters, the loss and checkpointing as the recipe has them."""
    attention = "eager" if job.software.attention == "eager" else "sdpa"
    how = {"dtype": DTYPES[job.precision], "attn_implementation": attention}
    model = _auto_model(recipe, config).from_config(config, **how)
    if (lora := recipe.model.lora) is not None:
        adapters = choose(model, lora, cast(Task, _Wants(_has_vocabulary(recipe))))
        adapt(model, lora, adapters, seed=0)
    if _has_vocabulary(recipe):
        head, text = model.get_output_embeddings(), config.get_text_config()
        is_changed = hasattr(model, "final_logits_bias") or getattr(text, "final_logit_softcapping", None)
        is_chunked = type(head) is nn.Linear and not is_changed and job.precision != "fp16"
        target_loss.keep_target_loss(model, is_chunked=is_chunked)
    if recipe.model.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


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
