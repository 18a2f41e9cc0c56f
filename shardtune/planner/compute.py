"""Seconds that a GPU computes in a micro-batch: matrix products, attention, and operations that memory limits."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from shardtune.planner.activations import element_bytes
from shardtune.planner.constants import Constants
from shardtune.planner.hardware import Gpu
from shardtune.planner.job import Adapters, Job
from shardtune.planner.model_shape import Layers
from shardtune.planner.quantized.frozen_weights import restoring_bytes

TILE = (128, 256)
"""Rows and columns of the output that a multiprocessor computes at a time (CUTLASS's largest tiles in bf16)."""
KERNELS = {"forward": 24, "backward": 40}
"""Kernels of a layer as transformers writes it, without fusion."""


@dataclass(frozen=True)
class Seconds:
    """The parts of a micro-batch's time on a GPU."""

    matrices: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0

    @property
    def total(self) -> float:
        return self.matrices + self.attention + self.elementwise

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(
            self.matrices + other.matrices, self.attention + other.attention, self.elementwise + other.elementwise
        )

    def times(self, factor: float) -> "Seconds":
        return Seconds(self.matrices * factor, self.attention * factor, self.elementwise * factor)


@dataclass(frozen=True)
class Rates:
    """What a GPU reaches in one precision."""

    gpu: Gpu
    precision: str
    constants: Constants

    @property
    def operations(self) -> float:
        """Operations a second of large matrix products."""
        tflops = self.gpu.tflops.get(self.precision) or self.gpu.tflops["fp32"]
        return tflops * 1e12 * self.constants.sustained.get(self.gpu.generation, 0.7)

    @property
    def per_sm(self) -> float:
        """The rate of a multiprocessor, as a part of an A100's."""
        tflops = self.gpu.tflops.get(self.precision) or self.gpu.tflops["fp32"]
        return tflops / self.gpu.sms / (312 / 108)

    @property
    def width(self) -> int:
        """Bytes of an element."""
        return 4 if self.precision in ("fp32", "tf32") else 2

    def attention(self, head_size: int, version: str) -> float:
        """Operations a second of flash attention."""
        is_old = self.gpu.generation in ("hopper", "blackwell")
        waiting = self.constants.exponentials * (2 if is_old else 1)
        limit = self.constants.old_instructions if is_old else 1.0
        gain = 1.0 if version == "triton" else self.constants.second_version
        return self.operations * self.constants.attention * limit * gain * head_size / (head_size + waiting)

    def moving(self, num_bytes: float) -> float:
        """Seconds to read and write so many bytes of the GPU's memory."""
        return num_bytes / (self.gpu.bandwidth_gb_s * 1e9 * self.constants.bandwidth)

    def product(self, rows: float, columns: float, inner: float, groups: int = 1) -> float:
        """Seconds of `groups` matrix products in one kernel, each of shape (rows, inner) x (inner, columns).

        The output is divided into tiles, which the multiprocessors compute in waves: the last is not full. The inner
        dimension has a start and an end, in which nothing is multiplied. Small products are limited by memory.
        """
        rows, columns, inner = max(rows, 1), max(columns, 1), max(inner, 1)
        tiles = groups * math.ceil(rows / TILE[0]) * math.ceil(columns / TILE[1])
        waves = tiles / self.gpu.sms
        full = waves / math.ceil(waves) if waves < 1e6 else 1.0
        useful = groups * rows * columns / (tiles * TILE[0] * TILE[1])
        efficiency = full * useful * inner / (inner + self.constants.short_k * self.per_sm)
        computing = 2 * groups * rows * columns * inner / (self.operations * efficiency)
        traffic = groups * self.width * (rows * inner + inner * columns + rows * columns)
        return max(computing, self.moving(traffic))


def micro_batch_seconds(job: Job, constants: Constants) -> tuple[Seconds, Seconds]:
    """Forward and backward (with the recomputation of activations) of a micro-batch."""
    rates = Rates(job.cluster.gpu, job.precision, constants)
    forward, backward = Seconds(), Seconds()
    for number, stack in enumerate(job.shape.stacks):
        for trains, num in zip((True, False), job.passes(number), strict=False):
            below, above = _layer_seconds(job, stack, rates, trains=trains)
            if job.software.activation_checkpointing:
                above = above + below
            backward += above.times(num)
        forward += below.times(stack.num)
    below, above = _ends_seconds(job, rates)
    return forward + below, backward + above


def _layer_seconds(job: Job, stack: Layers, rates: Rates, *, trains: bool) -> tuple[Seconds, Seconds]:
    """Forward and backward of a layer, whose weights have gradients or only pass them on."""
    batch = job.batch
    length = batch.tokens if stack.side == "source" else batch.target_tokens
    tokens = batch.rows * length
    matrices = sum(rates.product(*shape) for shape in products_of(stack, tokens))
    products = [*products_of(stack, tokens)]
    of_inputs = sum(rates.product(rows, inner, columns, num) for rows, columns, inner, num in products)
    of_weights = sum(rates.product(inner, columns, rows, num) for rows, columns, inner, num in products)
    added = _adapter_seconds(stack, tokens, job.adapters, rates) if job.adapters else 0.0
    scores = _attention_seconds(job, stack, rates)
    below, above = _traffic(job, stack)
    restoring = rates.moving(restoring_bytes(job, stack))
    least = constants_floor(rates, "forward"), constants_floor(rates, "backward")
    forward = Seconds(matrices + added, scores, rates.moving(below * tokens) + restoring)
    backward = Seconds(
        of_inputs + of_weights * trains + 2 * added,
        rates.constants.attention_backward * scores,
        rates.moving(above * tokens) + restoring,
    )
    return _at_least(forward, least[0]), _at_least(backward, least[1])


def constants_floor(rates: Rates, way: str) -> float:
    """Seconds below which the kernels of a layer cannot be started."""
    return KERNELS[way] * rates.constants.launch_s


def _at_least(seconds: Seconds, least: float) -> Seconds:
    missing = max(0.0, least - seconds.total)
    return seconds + Seconds(elementwise=missing)


def products_of(stack: Layers, tokens: float) -> Iterator[tuple[float, float, float, int]]:
    """The matrix products of a layer's forward pass: rows, columns, inner dimension, and how many are one kernel (all
    experts: grouped_mm)."""
    hidden, query, key = stack.hidden, stack.query_width, stack.kv_width
    for _ in range(2 if stack.has_cross_attention else 1):
        yield tokens, query + 2 * key, hidden, 1
        yield tokens, hidden, query, 1
    each = tokens * stack.experts_per_token / stack.num_experts
    yield each, stack.mlp_width * (2 if stack.is_gated else 1), hidden, stack.num_experts
    yield each, hidden, stack.mlp_width, stack.num_experts
    if stack.shared_width:
        yield tokens, stack.shared_width * (2 if stack.is_gated else 1), hidden, 1
        yield tokens, hidden, stack.shared_width, 1


def _adapter_seconds(stack: Layers, tokens: float, adapters: Adapters, rates: Rates) -> float:
    """Forward pass of a layer's adapters: small products, and additions to the outputs, which memory limits."""
    outputs = 2 * stack.query_width + 2 * stack.kv_width if adapters.on_all_attention else stack.query_width
    if adapters.on_mlp and stack.num_experts == 1:
        outputs += 2 * stack.mlp_width + stack.hidden
    return rates.moving(tokens * outputs * rates.width * 5)


def _attention_seconds(job: Job, stack: Layers, rates: Rates) -> float:
    """Forward pass of the scores of a layer, and of their products with the values.

    A causal mask leaves half of the pairs. Without flash attention the scores are written to memory and read again.
    """
    batch = job.batch
    is_target = stack.side == "target"
    length = batch.target_tokens if is_target else batch.tokens
    seen = min(length, batch.attended or length)
    windowed = min(seen, stack.window or seen)
    share = stack.num_windowed / stack.num
    pairs = length * ((1 - share) * seen + share * windowed) / (2 if stack.is_causal else 1)
    if stack.has_cross_attention:
        pairs += length * batch.tokens
    operations = 4 * batch.rows * pairs * stack.query_width
    seconds = operations / rates.attention(stack.head_size, job.software.attention)
    if job.software.attention == "eager":
        whole = length * length + (length * batch.tokens if stack.has_cross_attention else 0)
        seconds += rates.moving(batch.rows * stack.num_heads * whole * (rates.width * 5 + 12))
    return seconds


def _traffic(job: Job, stack: Layers) -> tuple[float, float]:
    """Bytes that the elementwise operations of a layer read and write for a token, forward and backward."""
    width = element_bytes(job)
    hidden, fused = stack.hidden, job.software.fused
    mlp = stack.mlp_width * stack.experts_per_token + stack.shared_width
    is_slow_norm = stack.is_rms_norm and "norm" not in fused
    norm = ((34 if width == 2 else 28), (70 if width == 2 else 56)) if is_slow_norm else (2 * width, 5 * width)
    forward = stack.norms * norm[0] * hidden + 2 * 3 * width * hidden
    backward = stack.norms * norm[1] * hidden + 2 * 3 * width * hidden
    act = (2, 3) if not stack.is_gated else ((3, 5) if "mlp" in fused else (5, 9))
    forward, backward = forward + act[0] * width * mlp, backward + act[1] * width * mlp
    if (
        stack.is_gated
    ):  # queries, keys and values, and both halves of the MLP, are layers of their own; rotary positions
        rotary = (3 if "rotary" in fused else 9) * width * (stack.query_width + stack.kv_width)
        forward, backward = forward + rotary, backward + rotary + 3 * 3 * width * hidden
    if not stack.is_gated:  # the gradients of biases are sums over the gradients of outputs
        backward += width * (stack.query_width + 2 * stack.kv_width + 2 * hidden + mlp)
    if job.software.dropout:
        forward, backward = forward + 2 * (2 * width + 1) * hidden, backward + 2 * (2 * width + 1) * hidden
    return forward, backward


def _ends_seconds(job: Job, rates: Rates) -> tuple[Seconds, Seconds]:
    """Forward and backward of the embeddings, the last layer and the loss."""
    shape, losses = job.shape, job.num_losses
    width, hidden = shape.width, shape.hidden
    logits = rates.product(losses, width, hidden)
    trains = job.adapters is None
    back = rates.product(losses, hidden, width) + rates.product(hidden, width, losses) * trains
    embedding = rates.moving(4 * rates.width * job.tokens * hidden)
    # Read in bf16, written in fp32, log softmax in two passes; its gradient, and that in bf16.
    loss = rates.moving(losses * width * 16), rates.moving(losses * width * 20)
    if job.software.loss == "fused":
        loss = rates.moving(losses * width * rates.width), rates.moving(losses * width * 2 * rates.width)
    return Seconds(logits, 0.0, embedding + loss[0]), Seconds(back, 0.0, embedding + loss[1])
