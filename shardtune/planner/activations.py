"""Bytes of what a forward pass keeps for its backward pass, and of the logits."""

from dataclasses import replace

from shardtune.planner.job import Adapters, Job
from shardtune.planner.model_shape import Layers


def element_bytes(job: Job) -> int:
    """Bytes of an activation."""
    return 4 if job.precision in ("fp32", "tf32") else 2


def layer_bytes(job: Job, stack: Layers, *, within: bool = False) -> float:
    """Bytes that a layer of the stack keeps of a micro-batch.

    With activation checkpointing that is its input only, and what one layer keeps while it is recomputed (`within`).
    """
    batch = job.batch
    tokens = batch.rows * (batch.tokens if stack.side == "source" else batch.target_tokens)
    if job.software.activation_checkpointing and not within:
        return tokens * stack.hidden * element_bytes(job)
    kept = tokens * (_norms(job, stack) + _attention(job, stack) + _mlp(job, stack) + _adapters(job, stack))
    if stack.has_cross_attention:
        kept += batch.rows * batch.tokens * 2 * stack.kv_width * element_bytes(job)
    return kept


def _norms(job: Job, stack: Layers) -> float:
    """Bytes a token of the normalizations: input and output.

    The RMSNorms of transformers compute in fp32: that copy of the input is kept, and, for the gradient of the weights,
    the normalized input. The output of an MLP's norm is kept for matrices that are trained or have an adapter.
    """
    width, adapters = element_bytes(job), job.adapters
    is_slow = stack.is_rms_norm and "norm" not in job.software.fused
    normalized = 0 if adapters else 4 if stack.scales_in_fp32 else width
    inside = 4 + normalized if is_slow else width
    outputs = stack.norms if adapters is None or _adapts_mlp(stack, adapters) else stack.norms - 1
    if adapters and adapters.dropout:  # _adapters counts the copies
        outputs = 0
    of_queries = inside * (stack.query_width + stack.kv_width) * stack.norms_queries
    masks = 2 * stack.hidden if job.software.dropout else 0
    return (stack.norms * inside + outputs * width) * stack.hidden + of_queries + masks


def ends_bytes(job: Job) -> float:
    """Bytes that the norms before the first and after the last layer keep of a micro-batch."""
    last = job.shape.stacks[-1] if job.shape.stacks else None
    if last is None:
        return 0.0
    tokens = job.batch.rows * (job.batch.tokens if last.side == "source" else job.batch.target_tokens)
    return tokens * job.shape.end_norms * _norms(job, replace(last, norms=1, norms_queries=False))


def _attention(job: Job, stack: Layers) -> float:
    """Bytes a token of queries, keys, values and the output, and of a logarithm for each head; without flash attention
    of the scores too: softmax in fp32 and in the model's precision (transformers' eager_attention_forward)."""
    width, batch = element_bytes(job), job.batch
    kept: float = width * 2 * (stack.query_width + stack.kv_width) + 4 * stack.num_heads
    if stack.has_cross_attention:
        kept += width * 2 * stack.query_width + 4 * stack.num_heads
    if job.software.attention == "eager":
        keys = batch.tokens if stack.side == "source" else batch.target_tokens
        keys += batch.tokens if stack.has_cross_attention else 0
        kept += stack.num_heads * keys * (4 + width + (width + 1 if job.software.dropout else 0))
    return kept


def _mlp(job: Job, stack: Layers) -> float:
    """Bytes a token of the MLP's hidden layers: before and after the activation; with a gate the other half and the
    product too, unless one kernel computes both. What only frozen matrices would need is not kept."""
    width = element_bytes(job)
    hidden = stack.mlp_width * stack.experts_per_token + stack.shared_width
    of_activation = 1 if "mlp" in job.software.fused else stack.activation_tensors
    tensors = of_activation + ((1 if "mlp" in job.software.fused else 2) if stack.is_gated else 0)
    if job.adapters is None or (_adapts_mlp(stack, job.adapters) and not job.adapters.dropout):
        tensors += 1  # the input of the last matrix
    copies = 2 * stack.hidden * stack.experts_per_token if stack.num_experts > 1 else 0
    return width * (tensors * hidden + copies)


def _adapters(job: Job, stack: Layers) -> float:
    """Bytes a token of what lies between the two matrices of each adapter, and of its input and a mask of a byte if
    that is dropped out."""
    if (adapters := job.adapters) is None:
        return 0.0
    width = element_bytes(job)
    between = width * adapters.rank * (2 + 2 * adapters.on_all_attention + 3 * _adapts_mlp(stack, adapters))
    return between + (width + 1) * adapter_inputs(stack, adapters) * adapters.dropout


def adapter_inputs(stack: Layers, adapters: Adapters) -> float:
    """Elements a token of the inputs of a layer's adapters together."""
    inputs = (3 if adapters.on_all_attention else 2) * stack.hidden
    inputs += stack.query_width * adapters.on_all_attention
    halves = 2 if stack.is_gated else 1
    return inputs + _adapts_mlp(stack, adapters) * (halves * stack.hidden + stack.mlp_width)


def _adapts_mlp(stack: Layers, adapters: Adapters) -> bool:
    return adapters.on_mlp and stack.num_experts == 1


def working_bytes(job: Job, stack: Layers) -> float:
    """Bytes of the gradients of activations that a layer's backward pass has at a time: those of an MLP."""
    batch = job.batch
    tokens = batch.rows * (batch.tokens if stack.side == "source" else batch.target_tokens)
    hidden = stack.mlp_width * stack.experts_per_token + stack.shared_width
    return tokens * element_bytes(job) * ((3 if stack.is_gated else 2) * hidden + 2 * stack.hidden)


def loss_bytes(job: Job) -> tuple[float, float]:
    """Bytes of the logits and the loss: when the loss is computed, and when its gradient is.

    Whole: logits, and in fp32 logits, softmax and gradient. By a fused kernel: logits and gradient. In chunks
    (trainer/model/target_loss.py): a chunk's logits in fp32, and their exponentials or copies, and the gradients of
    the hidden states and, in fp32, of the last layer; of the latter the backward pass makes a second copy, and one in
    the model's precision.
    """
    width, shape, losses = element_bytes(job), job.shape, job.num_losses
    if job.software.loss == "whole" or shape.num_labels is not None or shape.changes_logits:
        both = losses * shape.width * (width + 3 * 4)
        return both, both
    if job.software.loss == "fused":
        return losses * shape.width * width, losses * shape.width * 2 * width
    chunk = min(losses, max(1.0, job.software.loss_chunk / 4 / shape.width)) * shape.width
    of_hidden = losses * shape.hidden * width
    matrix = 0.0 if job.adapters is not None else float(shape.hidden * shape.width)
    return chunk * 8 + of_hidden + 4 * matrix, of_hidden + (4 + 4 + width) * matrix
