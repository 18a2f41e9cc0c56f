"""Seconds of a step on this machine's CPUs: the sum over its operations, each as long as it was measured to take."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from shardtune.planner.compute import Seconds, products_of
from shardtune.planner.job import Job
from shardtune.planner.measured.calibration import AttentionTime, Computing, CpuLayout, EngineTime, WholePass
from shardtune.planner.model_shape import Layers
from shardtune.planner.schedule import StepTime, model_operations

SPARSE_FROM = 4096
"""Rows from which on an embedding has sparse gradients without DeepSpeed (trainer/engine/replicated_engine.py)."""
UNMEASURED = WholePass(1.0, 0.0)


_NOTHING = Seconds()


@dataclass(frozen=True)
class _Both:
    """Forward and backward."""

    forward: Seconds = _NOTHING
    backward: Seconds = _NOTHING

    def __add__(self, other: "_Both") -> "_Both":
        return _Both(self.forward + other.forward, self.backward + other.backward)

    def times(self, factor: float) -> "_Both":
        return _Both(self.forward.times(factor), self.backward.times(factor))


def cpu_step_time(job: Job, layout: CpuLayout, engine: str) -> StepTime | None:
    """The time of a step of the job, whose engine is named as in ENGINES; None if its precision or its engine was not
    measured."""
    found = layout.computing.get(job.precision)
    if found is None or engine not in found.engines:
        return None
    num = job.batch.num_micro_batches
    passed = micro_batch(job, found)
    tensors = num_trained_tensors(job)
    update = engine_seconds(found.engines[engine], job.num_trained, tensors, num)
    return StepTime(
        forward=passed.forward.times(num),
        backward=passed.backward.times(num),
        communication_s=0.0,  # that of the measured engine is in its update
        exposed_s=0.0,
        update_s=update,
        offload_s=0.0,
        tokens=job.tokens * num,
        model_operations=model_operations(job) * num,
    )


def engine_seconds(engine: EngineTime, elements: float, tensors: float, micro_batches: float) -> float:
    """Seconds of a step beside the passes: what is done with gradients, and the update."""
    once = engine.first.at(elements) + (micro_batches - 1) * engine.more.at(elements)
    return once + engine.per_tensor * tensors * micro_batches


def num_trained_tensors(job: Job) -> float:
    """About how many tensors are trained: two for each matrix (with a bias), or those of the adapters."""
    if job.adapters is not None:
        each = 8 if job.adapters.on_all_attention else 4
        return sum(stack.num * (each + (6 if job.adapters.on_mlp else 0)) for stack in job.shape.stacks)
    has_biases = any(not stack.is_rms_norm for stack in job.shape.stacks)
    matrices = sum(stack.num * len(stack.sizes_of_matrices) for stack in job.shape.stacks)
    norms = sum(stack.num * stack.norms for stack in job.shape.stacks)
    return 2 + (matrices + norms) * (2 if has_biases else 1)


def micro_batch(job: Job, found: Computing) -> _Both:
    """Forward and backward (with the recomputation of activations) of a micro-batch."""
    total = _Both()
    for number, stack in enumerate(job.shape.stacks):
        for trains, num in zip((True, False), job.passes(number), strict=False):
            one = layer(job, stack, found, trains=trains)
            if job.software.activation_checkpointing:
                one = _Both(one.forward, one.backward + one.forward)
            total += one.times(num)
        total += _Both(one.forward).times(job.passes(number)[-1])
    whole = found.passes.get("decoder" if job.shape.stacks[0].is_rms_norm else "encoder", UNMEASURED)
    calls = whole.layer_s * job.shape.num_layers * (4 / 3 if job.software.activation_checkpointing else 1)
    # A backward pass calls about as many kernels again as the forward pass, and half of them twice.
    return (total + ends(job, found)).times(whole.factor) + _Both(
        Seconds(elementwise=calls * 0.4), Seconds(elementwise=calls * 0.6)
    )


def layer(job: Job, stack: Layers, found: Computing, *, trains: bool) -> _Both:
    """Forward and backward of a layer, whose weights have gradients or only pass them on, without its calls."""
    batch = job.batch
    length = batch.tokens if stack.side == "source" else batch.target_tokens
    tokens = batch.rows * length
    total = _Both()
    for rows, columns, inner, num in _single_products(stack, tokens):
        total += _linear(found, rows, inner, columns, trains=trains).times(num)
    total += _adapters(job, stack, tokens, found)
    for operation, elements, forward, backward in _operations(job, stack, tokens, trains=trains):
        time = found.elementwise[operation]
        total += _Both(
            Seconds(elementwise=forward * time.forward.at(elements)),
            Seconds(elementwise=backward * time.backward.at(elements)),
        )
    return total + _attention(job, stack, found)


def _single_products(stack: Layers, tokens: float) -> Iterator[tuple[float, float, float, int]]:
    """The products of a layer as CPUs compute them, one for each matrix: rows, columns, inner, how many."""
    hidden, query, key = stack.hidden, stack.query_width, stack.kv_width
    for rows, columns, inner, num in products_of(stack, tokens):
        if columns == query + 2 * key and inner == hidden and num == 1:
            yield rows, query, inner, 1
            yield rows, key, inner, 2
        elif stack.is_gated and columns == 2 * stack.mlp_width:
            yield rows, stack.mlp_width, inner, 2 * num
        else:
            yield rows, columns, inner, num


def _linear(found: Computing, rows: float, inner: float, columns: float, *, trains: bool = True) -> _Both:
    """A linear layer from `inner` to `columns` features; without `trains` its weights have no gradient."""
    products = found.products
    of_inputs = products["of_inputs"].at(rows, columns, inner)
    of_weights = products["of_weights"].at(columns, rows, inner) if trains else 0.0
    return _Both(Seconds(products["forward"].at(rows, inner, columns)), Seconds(of_inputs + of_weights))


def _operations(job: Job, stack: Layers, tokens: float, *, trains: bool) -> Iterator[tuple[str, float, float, float]]:
    """The elementwise operations of a layer: name, elements, how often forward and how often backward."""
    hidden = stack.hidden * tokens
    mlp = (stack.mlp_width * stack.experts_per_token + stack.shared_width) * tokens
    yield "rms_norm" if stack.is_rms_norm else "norm", hidden, stack.norms, stack.norms
    branches = 3 if stack.has_cross_attention else 2
    yield "add", hidden, branches, 0
    if stack.is_gated:
        yield "gated", mlp, 1, 1
        # The gradients of what two or three matrices, or the residual too, have read are added up.
        yield "add", hidden, 0, 2 + 1 + branches
        yield "rotary", (stack.query_width + stack.kv_width) * tokens, 1, 1
    else:
        yield "gelu", mlp, 1, 1
        yield "add", hidden, 0, 2 + branches
        if trains:
            yield "bias", (stack.query_width + 2 * stack.kv_width + 2 * stack.hidden) * tokens + mlp, 0, 1
    if job.software.dropout:
        yield "dropout", hidden, branches, branches


def _adapters(job: Job, stack: Layers, tokens: float, found: Computing) -> _Both:
    """The adapters of a layer: two narrow products each, a dropout, and an addition to the output."""
    if job.adapters is None:
        return _Both()
    rank, hidden = job.adapters.rank, stack.hidden
    ends = [(hidden, stack.query_width), (hidden, stack.kv_width)]
    if job.adapters.on_all_attention:
        ends += [(hidden, stack.kv_width), (stack.query_width, hidden)]
    if job.adapters.on_mlp and stack.num_experts == 1:
        ends += [(hidden, stack.mlp_width)] * (2 if stack.is_gated else 1) + [(stack.mlp_width, hidden)]
    total, add, dropped = _Both(), found.elementwise["add"], found.elementwise["dropout"]
    for inputs, outputs in ends:
        total += _linear(found, tokens, inputs, rank) + _linear(found, tokens, rank, outputs)
        # Scaled and added to the output; the gradient of the input is added to that of the frozen layer.
        forward = 2 * add.forward.at(tokens * outputs)
        backward = add.backward.at(tokens * outputs) + add.backward.at(tokens * inputs)
        if job.adapters.dropout:
            forward += dropped.forward.at(tokens * inputs)
            backward += dropped.backward.at(tokens * inputs)
        total += _Both(Seconds(elementwise=forward), Seconds(elementwise=backward))
    return total


def _attention(job: Job, stack: Layers, found: Computing) -> _Both:
    """The attention of a layer. Rows in which several examples are packed have a mask, which hides scores that are
    computed nevertheless."""
    batch = job.batch
    length = batch.tokens if stack.side == "source" else batch.target_tokens
    is_packed = batch.attended is not None
    kind = "causal" if stack.is_causal and not is_packed else "masked"
    if job.software.dropout and not stack.is_rms_norm:
        kind = "dropout"
    queries = batch.rows * length * stack.num_heads
    total = _attended(found.attention[kind], queries, length, stack.head_size)
    if stack.has_cross_attention:
        total += _attended(found.attention["masked"], queries, batch.tokens, stack.head_size)
    return total


def _attended(times: tuple[AttentionTime, ...], queries: float, length: float, head_size: float) -> _Both:
    """Seconds of so many queries of heads of this size, between the sizes that were measured."""
    sizes = [time.head_size for time in times]
    place = min(max(head_size, sizes[0]), sizes[-1])
    for one, other in pairwise(times):
        if one.head_size <= place <= other.head_size:
            share = (place - one.head_size) / (other.head_size - one.head_size)
            below, above = _attended((one,), queries, length, 0), _attended((other,), queries, length, 0)
            return below.times(1 - share) + above.times(share)
    (time,) = times
    return _Both(
        Seconds(attention=queries * time.forward.at(length)), Seconds(attention=queries * time.backward.at(length))
    )


def ends(job: Job, found: Computing) -> _Both:
    """Forward and backward of the embeddings, the last layer and the loss."""
    shape, losses = job.shape, job.num_losses
    trains = job.adapters is None
    hidden = shape.hidden * job.tokens
    lookup, add, norm = (found.elementwise[name] for name in ("lookup", "add", "norm"))
    tables = 1 if shape.stacks[0].is_rms_norm else 3
    forward = tables * lookup.forward.at(hidden) + (tables - 1) * add.forward.at(hidden)
    backward = tables * lookup.backward.at(hidden) * trains
    norms = found.elementwise["rms_norm"] if shape.stacks[0].is_rms_norm else norm
    forward += shape.end_norms * norms.forward.at(hidden)
    backward += shape.end_norms * norms.backward.at(hidden)
    if job.software.dropout:
        dropped = found.elementwise["dropout"]
        forward, backward = forward + dropped.forward.at(hidden), backward + dropped.backward.at(hidden)
    table = shape.hidden * shape.vocabulary
    whole = found.elementwise["scaled"].forward.at(table)
    if trains and (shape.is_tied or shape.vocabulary < SPARSE_FROM or job.states.bucket > 0):
        # A dense gradient of the table: zeros first, and if its weights are the last layer's, added to their gradient.
        backward += whole * (1.0 if shape.is_tied and shape.num_labels is None else 0.5)
    if trains and shape.num_labels is None:
        # The gradient of the last layer begins as zeros in fp32, to which those of the chunks are added; it is scaled.
        chunks = math.ceil(4 * losses * shape.width / job.software.loss_chunk)
        backward += whole * (2 + 0.5 * (chunks - 1))
    last = _linear(found, losses, shape.hidden, shape.width, trains=trains)
    loss = found.loss.at(losses * shape.width) if shape.num_labels is None else 0.0
    return last + _Both(Seconds(elementwise=forward + loss), Seconds(elementwise=backward))
