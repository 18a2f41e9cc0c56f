"""How fast the ranks compute, and which part of what their devices could do that is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from shardtune.planner.hardware import peak_tflops
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.flops import ModelFlops, count_flops
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.preflight.probe import matmul_tflops

CPU_SIZE, CPU_S = 768, 0.05
"""Rows and columns of the matrices by which a CPU's rate is measured, and the shortest time for it."""


@dataclass(frozen=True)
class ComputeRate:
    """Turns steps into floating-point operations, and these into rates."""

    model_flops: ModelFlops
    is_encoder_decoder: bool
    peak_tflops: float
    """What the devices of all ranks together could compute at most, in 10^12 operations a second."""
    world_size: int

    def flops(self, step: Step) -> float:
        """Operations that the step needs on all ranks together."""
        return self.model_flops.of_rows(step.row_tokens, step.row_targets, is_encoder_decoder=self.is_encoder_decoder)

    def metrics(self, flops: float, elapsed_s: float) -> Mapping[str, float]:
        """tflops_per_s, of a rank on average, and mfu, the model FLOPs utilization: the part of the peak."""
        tflops_per_s = flops / elapsed_s / 1e12
        return {"tflops_per_s": tflops_per_s / self.world_size, "mfu": tflops_per_s / self.peak_tflops}


def measure_compute_rate(model: Any, precision: str, ranks: Ranks) -> ComputeRate:
    """Collective: for training the model, whose trained parameters require gradients, in this precision."""
    (peak,) = ranks.sum(device_peak(ranks.device, precision))
    return ComputeRate(count_flops(model), bool(model.config.is_encoder_decoder), peak, ranks.world_size)


def device_peak(device: torch.device, precision: str) -> float:
    """The peak rate of a device, in 10^12 operations a second: of a GPU by its name, otherwise as measured."""
    if device.type == "cuda":
        known = peak_tflops(torch.cuda.get_device_name(device), precision)
        return known or matmul_tflops(device, dtype=DTYPES[precision])
    return matmul_tflops(device, dtype=DTYPES[precision], size=CPU_SIZE, least_s=CPU_S)
