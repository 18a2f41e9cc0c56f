"""What the GPUs of a machine reach: products, memory, attention, launches, and copies from the host."""

from collections.abc import Mapping

import torch
from torch.nn import functional

from shardtune.planner.measured.calibration import GpuLayout
from shardtune.trainer.calibration.links import measure_links
from shardtune.trainer.calibration.timing import Clock
from shardtune.trainer.setup.precision import has_bf16

SIZE = 8192
"""Rows and columns of the matrices that are multiplied."""
COPY_BYTES = 2**28
LENGTH, HEADS, HEAD_SIZE = 4096, 16, 128
"""Of the attention that is measured, in rows of so many tokens."""
LAUNCHES = 1000


def measure_gpus(clock: Clock) -> GpuLayout:
    """Collective: the GPUs of these ranks, all at once."""
    return GpuLayout(
        ranks=clock.ranks.world_size,
        tflops={name: _products(clock, dtype, name) for name, dtype in _dtypes().items()},
        bandwidth_gb_s=_bandwidth(clock),
        attention_tflops=_attention(clock),
        launch_s=_launch(clock),
        host_copy_gb_s=_host_copy(clock),
        links=measure_links(clock),
    )


def _dtypes() -> Mapping[str, torch.dtype]:
    """The precisions that this GPU has units for; TF32 came with bf16."""
    always = {"fp16": torch.float16, "fp32": torch.float32}
    return {"bf16": torch.bfloat16, **always, "tf32": torch.float32} if has_bf16("cuda") else always


def _products(clock: Clock, dtype: torch.dtype, name: str) -> float:
    left, right = (torch.ones(SIZE, SIZE, device=clock.ranks.device, dtype=dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    try:
        return 2 * SIZE**3 / clock.each(lambda: left @ right) / 1e12
    finally:
        torch.set_float32_matmul_precision(before)


def _bandwidth(clock: Clock) -> float:
    source = torch.ones(COPY_BYTES // 4, device=clock.ranks.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / clock.each(lambda: target.copy_(source)) / 1e9


def _attention(clock: Clock) -> float:
    dtype = torch.bfloat16 if has_bf16("cuda") else torch.float16
    part = torch.ones(1, HEADS, LENGTH, HEAD_SIZE, device=clock.ranks.device, dtype=dtype)
    seconds = clock.each(lambda: functional.scaled_dot_product_attention(part, part, part, is_causal=True))
    return 4 * HEADS * LENGTH**2 / 2 * HEAD_SIZE / seconds / 1e12


def _launch(clock: Clock) -> float:
    small = torch.ones(1, device=clock.ranks.device)

    def run() -> None:
        for _ in range(LAUNCHES):
            small.add_(1.0)

    return clock.each(run) / LAUNCHES


def _host_copy(clock: Clock) -> float:
    pinned = torch.ones(COPY_BYTES // 4).pin_memory()
    target = torch.empty(COPY_BYTES // 4, device=clock.ranks.device)
    return pinned.nbytes / clock.each(lambda: target.copy_(pinned, non_blocking=True)) / 1e9
