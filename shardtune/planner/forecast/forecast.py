"""What `shardtune plan` says of memory, time and cost, as numbers and as text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shardtune.planner.forecast.host import checkpoint_bytes, host_memory
from shardtune.planner.forecast.of_recipe import DataSize, Planned, plan_recipe
from shardtune.planner.forecast.run_time import USUAL_SITE, RunTime, Site, run_time
from shardtune.planner.job import Cluster
from shardtune.planner.measured.basis import NOTHING, Basis, constants_of
from shardtune.planner.measured.corrections import UNCORRECTED, Correction, correction_of, subject_of
from shardtune.planner.memory import GpuMemory, gpu_memory
from shardtune.planner.model_shape import ModelShape
from shardtune.planner.schedule import StepTime, step_time
from shardtune.recipe.schema import Recipe

GIB = 2**30
SPREAD = 1.25
"""By which factor times may be off: of 116 published runs all but one are within it (docs/planner.md)."""
MEMORY_SPREAD = 0.08
"""By which part the memory of a GPU may be off: the largest error of the published figures is 6 %, in few rows."""


@dataclass(frozen=True)
class Forecast:
    """What a recipe will need on some machines."""

    shape: ModelShape
    cluster: Cluster
    data: DataSize
    planned: Planned
    memory: GpuMemory
    step: StepTime
    host: Mapping[str, float]
    """Bytes of a node's memory by term."""
    disk: float
    """Bytes of checkpoints."""
    host_limit: float | None
    """job.memory_per_node_gb in bytes; None if the recipe does not say."""
    price: float | None
    """Of a GPU for an hour."""
    run: RunTime | None
    """None if the number of steps is not known."""
    correction: Correction = UNCORRECTED
    """By which factors the memory and the times were corrected, by earlier runs on this machine."""
    strategy: str | None = None
    """engine.deepspeed."""
    strategy_notice: str | None = None
    """What engine.deepspeed: auto stands for, and why."""

    @property
    def spread(self) -> float:
        """By which factor times may be off both ways."""
        return self.correction.spread or SPREAD

    @property
    def unit(self) -> str:
        """What the machine has several of."""
        return "rank" if self.cluster.gpu.is_cpu else "GPU"

    @property
    def capacity(self) -> float:
        return self.cluster.gpu.memory_gib * GIB

    @property
    def verdict(self) -> str:
        """`fits`, `tight` or `does not fit`."""
        if has_room(self.memory.used, self.capacity):
            return "fits"
        return "tight" if self.memory.used * (1 - MEMORY_SPREAD) <= self.capacity else "does not fit"

    @property
    def run_s(self) -> float | None:
        """Seconds of the whole run without queues; None if the number of steps is not known."""
        return None if self.run is None else self.run.total_s

    @property
    def gpu_hours(self) -> float | None:
        """Of the whole run; None if its steps are not known."""
        return None if self.run_s is None else self.run_s * self.cluster.world_size / 3600

    @property
    def cost(self) -> float | None:
        """Of the whole run; None if its steps or the price are not known."""
        return None if self.gpu_hours is None or self.price is None else self.gpu_hours * self.price

    @property
    def tokens_per_s_per_gpu(self) -> float:
        """Without padding."""
        return self.planned.tokens_per_step / self.step.total_s / self.cluster.world_size

    @property
    def mfu(self) -> float:
        gpu = self.cluster.gpu
        useful = self.tokens_per_s_per_gpu / self.step.tokens_per_s
        peak = gpu.tflops.get(self.planned.average.precision) or gpu.tflops["fp32"]
        return self.step.mfu(peak) * min(1.0, useful)

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        run = self.run_s
        hours = self.gpu_hours
        return {
            "model": {
                "name": self.shape.name,
                "parameters": self.shape.num_parameters,
                "active_parameters": self.shape.num_active,
                "trained_parameters": round(self.planned.average.num_trained),
            },
            "machine": {
                "gpu": self.cluster.gpu.name,
                "nodes": self.cluster.num_nodes,
                "gpus_per_node": self.cluster.gpus_per_node,
            },
            "strategy": self.strategy_notice,
            "memory": {
                "verdict": self.verdict,
                "capacity_bytes": round(self.capacity),
                "used_bytes": round(self.memory.used),
                "peak": self.memory.peak_instant,
                "terms": {name: round(size) for name, size in {**self.memory.terms, **self.memory.around}.items()},
            },
            "host_memory_bytes": {name: round(size) for name, size in self.host.items()},
            "checkpoints_bytes": round(self.disk),
            "step": {
                "seconds": self.step.total_s,
                "compute_s": self.step.compute_s,
                "communication_s": self.step.communication_s,
                "exposed_communication_s": self.step.exposed_s,
                "update_s": self.step.update_s,
                "offload_s": self.step.offload_s,
                "tokens": self.planned.tokens_per_step,
                "micro_batches": self.planned.average.batch.num_micro_batches,
                "micro_batch_tokens": self.planned.micro_batch_tokens,
            },
            "tokens_per_s_per_gpu": self.tokens_per_s_per_gpu,
            "mfu": self.mfu,
            "steps": self.planned.num_steps,
            "run_seconds": run,
            "run_parts_s": None if self.run is None else dict(self.run.seconds),
            "starts": None if self.run is None else self.run.num_starts,
            "run_seconds_range": None if run is None else [run / self.spread, run * self.spread],
            "gpu_hours": hours,
            "cost": self.cost,
            "kwh": None if hours is None else hours * self.cluster.gpu.tdp_w / 1000,
            "data_is_estimated": self.data.is_estimated,
            "data_is_prepared": self.data.is_prepared,
            "corrected_by_runs": self.correction.num_runs,
        }

    def describe(self) -> str:
        """The forecast as text, each line with what it is about."""
        return "\n".join(f"{name:14} {text}" for name, text in self._lines())

    def _lines(self) -> Iterator[tuple[str, str]]:
        gpu, shape, cluster = self.cluster.gpu, self.shape, self.cluster
        active = f", {_billions(shape.num_active)} active" if shape.num_active < shape.num_parameters else ""
        trained = self.planned.average.num_trained
        lora = f", {_billions(trained)} trained" if trained < shape.num_parameters else ""
        yield "model", f"{shape.name}: {_billions(shape.num_parameters)} parameters{active}{lora}"
        nodes = f"{cluster.num_nodes} nodes x " if cluster.num_nodes > 1 else ""
        each = "a rank on CPUs" if gpu.is_cpu else gpu.name
        yield "machine", f"{nodes}{cluster.gpus_per_node} x {each}, {gpu.memory_gib:.4g} GiB each"
        if self.strategy_notice is not None:
            yield "strategy", self.strategy_notice
        used = f"{self.memory.used / GIB:.1f} of {gpu.memory_gib:.4g} GiB per {self.unit}"
        yield "memory", f"{self.verdict}: {used}, at the {self.memory.peak_instant}"
        yield "", _terms({**self.memory.terms, **self.memory.around})
        total = sum(self.host.values())
        host = f"{total / GIB:.0f} GiB per node ({_terms(self.host)})"
        if self.host_limit and total > self.host_limit:
            host = f"does not fit: {host}, but job.memory_per_node_gb is {self.host_limit / GIB:.0f}"
        yield "host memory", host
        yield "disk", f"{self.disk / GIB:.1f} GiB of checkpoints"
        yield from self._time_lines()

    def _time_lines(self) -> Iterator[tuple[str, str]]:
        step = self.step
        parts = {
            "compute": step.compute_s,
            "communication": step.exposed_s,
            "update": step.update_s,
            "offload": step.offload_s,
        }
        shares = ", ".join(f"{name} {part / step.total_s:.0%}" for name, part in parts.items() if part)
        yield "step", f"{_range(step.total_s, self.spread)}: {shares}"
        yield "speed", f"{self.tokens_per_s_per_gpu:,.0f} tokens/s per {self.unit}, MFU {self.mfu:.0%}"
        if self.correction.num_runs:
            yield "", str(self.correction)
        if (run := self.run_s) is None:
            yield "run", "the number of rows is not known; give --rows and --tokens, or train.max_steps"
            return
        assert self.run is not None and self.gpu_hours is not None
        yield "run", f"{self.planned.num_steps:,} steps: {_range(run, self.spread)}; {resources(self)}"
        yield "", self.run.describe()
        if self.data.is_prepared:
            yield "", "exact token counts of prepared data"
        if self.data.is_estimated:
            yield "", "rows and tokens are estimated from the bytes of the files; --rows and --tokens are exact"
        if self.data.tokens_per_row is None:
            yield "", "the length of rows is not known; data.max_tokens is taken for it (--tokens is exact)"


def resources(forecast: Forecast) -> str:
    """`12.0 GPU-hours (9.6 to 15.0), costs 24.00, up to 8.4 kWh`, of a forecast whose steps are known."""
    hours, spread = forecast.gpu_hours or 0.0, forecast.spread
    cost = ""
    if forecast.cost is not None:
        cost = f", costs {forecast.cost:,.2f} ({forecast.cost / spread:,.2f} to {forecast.cost * spread:,.2f})"
    if forecast.cluster.gpu.is_cpu:  # whose power is not known
        return f"{hours:,.2g} rank-hours ({hours / spread:,.2g} to {hours * spread:,.2g}){cost}"
    energy = hours * forecast.cluster.gpu.tdp_w / 1000
    return f"{hours:,.1f} GPU-hours ({hours / spread:,.1f} to {hours * spread:,.1f}){cost}, up to {energy:,.1f} kWh"


def has_room(used: float, capacity: float) -> bool:
    """Whether this much fits into a GPU even if the planner is off by MEMORY_SPREAD."""
    return used * (1 + MEMORY_SPREAD) <= capacity


def forecast(
    recipe: Recipe,
    shape: ModelShape,
    cluster: Cluster,
    data: DataSize,
    *,
    price: float | None = None,
    basis: Basis = NOTHING,
) -> Forecast:
    """The forecast of a recipe on GPUs, of which the basis may know more than their data sheet. Raises ConfigError if
    the GPU cannot do what the recipe asks for."""
    planned = plan_recipe(recipe, shape, cluster, data)
    layout = None if basis.calibration is None else basis.calibration.on_gpus(cluster.world_size)
    correction = correction_of(basis.runs, subject_of(planned.average, recipe.engine.deepspeed))
    memory = gpu_memory(planned.largest)
    return assembled(
        recipe,
        shape,
        cluster,
        data,
        planned=planned,
        memory=replace(memory, beyond=(correction.memory - 1) * memory.allocated),
        step=step_time(planned.average, constants_of(layout, cluster.gpu)),
        correction=correction,
        price=price,
    )


def assembled(
    recipe: Recipe,
    shape: ModelShape,
    cluster: Cluster,
    data: DataSize,
    *,
    planned: Planned,
    memory: GpuMemory,
    step: StepTime,
    correction: Correction,
    site: Site = USUAL_SITE,
    price: float | None = None,
) -> Forecast:
    """The forecast with this memory, corrected already, and this time of a step, which is corrected here."""
    step = step.times(correction.step)
    limit = recipe.job.memory_per_node_gb
    return Forecast(
        shape,
        cluster,
        data,
        planned,
        memory,
        step,
        host_memory(recipe, planned.average),
        checkpoint_bytes(recipe, planned.average),
        limit * GIB if limit else None,
        price,
        run_time(recipe, planned, step, data, cluster, site),
        correction,
        recipe.engine.deepspeed,
    )


def _terms(terms: Mapping[str, float]) -> str:
    """`weights 13.1, gradients 6.5` in GiB, without what is less than 0.05."""
    return ", ".join(f"{name} {size / GIB:.1f}" for name, size in terms.items() if size >= 0.05 * GIB)


def _billions(number: float) -> str:
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"


def _range(seconds: float, spread: float) -> str:
    """`2.3 s (1.8 to 2.9 s)`."""
    return f"{duration(seconds)} ({duration(seconds / spread)} to {duration(seconds * spread)})"


def duration(seconds: float) -> str:
    """`2.9 ms`, `2.31 s`, `12.5 h`."""
    if seconds < 0.1:
        return f"{1000 * seconds:.1f} ms"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
