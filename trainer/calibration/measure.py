"""All that is measured of the ranks of a machine, in order, with progress."""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from shardtune.planner.measured.calibration import Calibration, Computing, CpuLayout
from shardtune.trainer.calibration.engines import measure_engines
from shardtune.trainer.calibration.gpus import measure_gpus
from shardtune.trainer.calibration.links import disk_rate, measure_links, tokens_rate
from shardtune.trainer.calibration.operations import (
    copy_rate,
    measure_attention,
    measure_elementwise,
    measure_loss,
    measure_products,
)
from shardtune.trainer.calibration.passes import measure_passes
from shardtune.trainer.calibration.timing import Clock
from shardtune.trainer.model.load import DTYPES
from shardtune.trainer.setup.precision import has_bf16

Say = Callable[[str], None]


def measure(clock: Clock, machine: str, folder: Path, began: float, say: Say) -> Calibration:
    """Collective: what these ranks reach, the rate of the disk of this folder, of tokenizing, and the time since
    `began`, in seconds since the epoch, when the rank was started."""
    ranks = clock.ranks
    found = Calibration(machine, start_s=max(0.1, time.time() - began))
    if ranks.device.type == "cuda":
        say("products, memory, attention and links of GPUs")
        found = replace(found, gpus=(measure_gpus(clock),))
    else:
        found = replace(found, cpus=(_cpus(clock, say),))
    say("disk and tokenizer")
    ranks.barrier()
    if ranks.is_zero:
        cores = len(os.sched_getaffinity(0))
        found = replace(found, disk_gb_s=disk_rate(folder), tokens_per_s=cores * tokens_rate())
    ranks.barrier()
    return found


def _cpus(clock: Clock, say: Say) -> CpuLayout:
    precisions = ["fp32", *(["bf16"] if has_bf16("cpu") else [])]
    computing = {precision: _computing(clock, precision, say) for precision in precisions}
    say("memory and links")
    return CpuLayout(
        ranks=clock.ranks.world_size,
        threads=torch.get_num_threads(),
        computing=computing,
        copy_bytes_per_s=copy_rate(clock),
        links=measure_links(clock),
    )


def _computing(clock: Clock, precision: str, say: Say) -> Computing:
    dtype = DTYPES[precision]
    say(f"matrix products in {precision}")
    products = measure_products(clock, dtype)
    say(f"other operations in {precision}")
    elementwise, attention = measure_elementwise(clock, dtype), measure_attention(clock, dtype)
    loss = measure_loss(clock, dtype, products)
    say(f"engines in {precision}")
    engines = measure_engines(clock, precision)
    found = Computing(products, elementwise, attention, loss, engines, passes={})
    say(f"whole passes in {precision}")
    return replace(found, passes=measure_passes(clock, precision, found))
