"""Bytes and traffic of a base whose linear layers are held in few bits (trainer/model/quantized)."""

from shardtune.planner.job import Base, Job
from shardtune.planner.model_shape import Layers

BLOCK, SCALES_BLOCK = 64, 256
"""Weights with a scale in 8 bits, and scales with one in fp32 (Dettmers et al., 2023: QLoRA, section 3)."""
OF_A_MATRIX = 4 * 257
"""Bytes of NF4 that each matrix has once: the mean of its scales, and the 256 values of an 8-bit number."""


def held_bytes(base: Base, stack: Layers) -> float:
    """Bytes of the quantized matrices of a layer, with their scales."""
    if base == "int8":
        return stack.separate * (1 + 4 / stack.hidden)
    halves = 3 if stack.is_gated else 2
    num = 8 if stack.has_cross_attention else 4
    num += halves * (stack.num_experts == 1) + halves * (stack.shared_width > 0)
    return stack.separate * (0.5 + (1 + 4 / SCALES_BLOCK) / BLOCK) + num * OF_A_MATRIX


def restored_bytes(job: Job) -> float:
    """Bytes of the largest matrix that a product restores: in the model's precision, and on the way there the scales of
    NF4, or all of int8, in fp32."""
    if job.adapters is None or job.adapters.base == "none":
        return 0.0
    on_the_way = {"nf4": 4 / BLOCK, "int8": 4 if job.states.weight < 4 else 0}[job.adapters.base]
    return max(_largest(stack) for stack in job.shape.stacks) * (job.states.weight + on_the_way)


def restoring_bytes(job: Job, stack: Layers) -> float:
    """Bytes that are read and written to restore the matrices of a layer once."""
    if job.adapters is None or job.adapters.base == "none":
        return 0.0
    width = job.states.weight
    # int8: read, written in fp32, read again and written in half precision.
    moved = {"nf4": 0.5 + width, "int8": 1 + 4 + (4 + width if width < 4 else 0)}[job.adapters.base]
    return stack.separate * moved


def _largest(stack: Layers) -> int:
    """Elements of the largest quantized matrix."""
    widths = [stack.query_width, stack.kv_width]
    widths += [stack.mlp_width] if stack.num_experts == 1 else [stack.shared_width]
    return stack.hidden * max(widths)
