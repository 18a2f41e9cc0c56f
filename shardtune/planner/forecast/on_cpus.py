"""The forecast of CPU ranks of one machine, by what was measured on it."""

from dataclasses import dataclass, replace

from shardtune.ds_config.resolve import ds_config_of, zero_stage
from shardtune.planner.forecast.forecast import Forecast, assembled
from shardtune.planner.forecast.of_recipe import DataSize, memory_on_cpus, plan_recipe
from shardtune.planner.forecast.run_time import Site
from shardtune.planner.hardware import CPU, memory_only
from shardtune.planner.job import Cluster, Job
from shardtune.planner.measured.basis import Basis, cpu_device, engine_of
from shardtune.planner.measured.calibration import Calibration, CpuLayout
from shardtune.planner.measured.corrections import Subject, correction_of, subject_of
from shardtune.planner.measured.cpu_step import cpu_step_time
from shardtune.planner.memory import GpuMemory
from shardtune.planner.model_shape import ModelShape
from shardtune.recipe.schema import Recipe

CALIBRATE = "`shardtune plan --calibrate` measures this machine"


@dataclass(frozen=True)
class Ranks:
    """CPU ranks of a machine."""

    num: int
    precision: str
    memory: float
    """Bytes of each rank's share of the machine's memory."""


@dataclass(frozen=True)
class OnCpus:
    """What is foreseen of CPU ranks."""

    memory: GpuMemory
    subject: Subject
    forecast: Forecast | None
    why_not: str | None
    """Why there is no forecast of the time."""


def on_cpus(
    recipe: Recipe, shape: ModelShape, ranks: Ranks, data: DataSize, basis: Basis, *, price: float | None = None
) -> OnCpus:
    """The memory of these ranks, and, if the machine was measured, their time."""
    unmeasured = Cluster(gpu=memory_only(CPU, ranks.memory), gpus_per_node=ranks.num)
    memory = memory_on_cpus(recipe, shape, unmeasured, ranks.precision)
    layout = _layout(basis.calibration, ranks)
    device = memory_only(CPU, ranks.memory)
    if layout is None:
        device = replace(device, tflops={ranks.precision: 0.0})
    else:
        device = cpu_device(layout, ranks.precision, ranks.memory)
    cluster = Cluster(gpu=device, gpus_per_node=ranks.num)
    planned = plan_recipe(recipe, shape, cluster, data)
    subject = subject_of(planned.average, recipe.engine.deepspeed)
    correction = correction_of(basis.runs, subject)
    memory = replace(memory, beyond=(correction.memory - 1) * memory.used)
    if layout is None or basis.calibration is None:
        return OnCpus(memory, subject, None, _why_not(basis.calibration, ranks))
    engine = _engine(recipe, shape, planned.average)
    step = None if engine is None else cpu_step_time(planned.average, layout, engine)
    if step is None:
        why = f"the time of engine.deepspeed: {recipe.engine.deepspeed} on CPUs is not planned"
        return OnCpus(memory, subject, None, why)
    site = _site(basis.calibration, layout)
    found = assembled(
        recipe,
        shape,
        cluster,
        data,
        planned=planned,
        memory=memory,
        step=step,
        site=site,
        correction=correction,
        price=price,
    )
    return OnCpus(memory, subject, found, None)


def _layout(calibration: Calibration | None, ranks: Ranks) -> CpuLayout | None:
    layout = None if calibration is None else calibration.on_cpus(ranks.num)
    return layout if layout is not None and ranks.precision in layout.computing else None


def _why_not(calibration: Calibration | None, ranks: Ranks) -> str:
    if calibration is None or not calibration.cpus:
        return f"time on CPUs is not planned: {CALIBRATE}"
    measured = ", ".join(str(layout.ranks) for layout in calibration.cpus)
    return (
        f"time on CPUs is not planned: {measured} ranks of this machine were measured, not {ranks.num} in "
        f"{ranks.precision}; `shardtune plan --calibrate --ranks={ranks.num}` measures these"
    )


def _engine(recipe: Recipe, shape: ModelShape, job: Job) -> str | None:
    ds_config = ds_config_of(recipe, hidden_size=shape.hidden)
    stage = None if ds_config is None else zero_stage(ds_config)
    return engine_of(recipe, stage, offloads=job.states.offloads_optimizer or job.states.offloads_weights)


def _site(calibration: Calibration, layout: CpuLayout) -> Site:
    usual = Site()
    return Site(
        disk_gb_s=calibration.disk_gb_s or usual.disk_gb_s,
        start_s=calibration.start_s or usual.start_s,
        copy_gb_s=layout.copy_bytes_per_s / 2 / 1e9,
    )
