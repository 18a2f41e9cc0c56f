"""What a plan may build on beside data sheets and constants: a calibration of its machine, and earlier runs there."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.planner.constants import DEFAULTS, Constants
from shardtune.planner.hardware import CPU, Gpu
from shardtune.planner.measured.calibration import Calibration, Computing, CpuLayout, GpuLayout
from shardtune.planner.measured.corrections import PastRun
from shardtune.recipe.schema import Recipe

GIB = 2**30
WITHOUT_DEEPSPEED = "null"


@dataclass(frozen=True)
class Basis:
    """What is known of the machine of a plan."""

    calibration: Calibration | None = None
    runs: Sequence[PastRun] = ()
    machine: str | None = None
    """The machine's fingerprint; None if the plan is for another one."""


NOTHING = Basis()


def constants_of(layout: GpuLayout | None, gpu: Gpu) -> Constants:
    """The planner's constants with what was measured on GPUs of this kind in the place of usual values."""
    if layout is None:
        return DEFAULTS
    known = [layout.tflops[name] / peak for name, peak in gpu.tflops.items() if name in layout.tflops]
    sustained = dict(DEFAULTS.sustained)
    if known:  # short measurements run at a higher clock than minutes of training: never more than is usual
        sustained[gpu.generation] = min(max(known), 1.1 * sustained.get(gpu.generation, 0.7))
    return replace(
        DEFAULTS,
        sustained=sustained,
        bandwidth=min(1.0, layout.bandwidth_gb_s / gpu.bandwidth_gb_s),
        launch_s=layout.launch_s,
        link=DEFAULTS.link if layout.links is None else _link_share(layout, gpu),
    )


def _link_share(layout: GpuLayout, gpu: Gpu) -> float:
    """The part of the link's rate that the largest collective reached."""
    assert layout.links is not None
    num_bytes, seconds = layout.links.all_gather.points[-1]
    share = (layout.ranks - 1) / layout.ranks
    return min(1.0, num_bytes * share / seconds / (gpu.link_gb_s * 1e9))


def cpu_device(layout: CpuLayout, precision: str, num_bytes: float) -> Gpu:
    """A rank on processors as a device, with what was measured of it: the rate of its fastest product is its peak."""
    found = layout.computing[precision]
    return Gpu(
        name=CPU,
        pattern="",
        generation=CPU,
        tflops={precision: peak_of(found) / 1e12},
        memory_gib=num_bytes / GIB,
        bandwidth_gb_s=layout.copy_bytes_per_s / 1e9,
        sms=0,
        link_gb_s=0.0,
        network_gb_s=0.0,
        tdp_w=0.0,
        source="shardtune plan --calibrate",
    )


def peak_of(found: Computing) -> float:
    """Operations a second of the fastest product that was measured."""
    return max(products.best_rate for products in found.products.values())


def engine_of(recipe: Recipe, zero_stage: int | None, *, offloads: bool) -> str | None:
    """The measured engine (ENGINES) that a recipe trains with; None if it is none of them."""
    if recipe.engine.deepspeed is None:
        return WITHOUT_DEEPSPEED
    # Stage 0 updates everything on every rank, and an offloaded optimizer is another one.
    return None if not zero_stage or offloads else f"zero{zero_stage}"
