"""A run and its machines -> the lines that it says of its plan before it starts, and what is kept of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.errors import ShardtuneError
from shardtune.launcher.plan.job import JobPlan
from shardtune.launcher.plan.model_and_data import data_size, model_shape, precision_on_cpus
from shardtune.machine.host_memory import host_memory
from shardtune.planner.forecast.brief import brief, brief_on_cpus, record, record_on_cpus, warnings
from shardtune.planner.forecast.forecast import forecast
from shardtune.planner.forecast.of_recipe import memory_on_cpus
from shardtune.planner.hardware import CPU, Gpu, find_gpu, memory_only
from shardtune.planner.job import Cluster
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import METRICS

TAIL_BYTES = 2**17


@dataclass(frozen=True)
class Outlook:
    """What a run says of its plan."""

    lines: tuple[str, ...]
    record: dict[str, Any] | None
    """The content of plan.json; None if nothing can be planned."""


def outlook_of(plan: JobPlan, *, now: float) -> Outlook:
    """The outlook of a job on this machine. Nothing that the planner does not know stops it."""
    try:
        if plan.device == "cpu":
            return _on_cpus(plan.recipe, plan.world_size)
        if plan.gpu_name is None:
            return Outlook(("plan: none, because the kind of the GPUs is not known",), None)
        return on_gpus(plan.recipe, plan.run_dir, find_gpu(plan.gpu_name), plan.world_size, 1, now=now)
    except Exception as error:  # a plan is an extra: whatever it fails of must not cost the run
        return Outlook((no_plan(error),), None)


def no_plan(error: Exception) -> str:
    """One line that says why there is no plan."""
    (reason, *_) = str(error).splitlines() or [""]
    reason = reason.split("; known: ")[0]
    return f"plan: none: {reason if isinstance(error, ShardtuneError) else f'{type(error).__name__}: {reason}'}"


def on_gpus(
    recipe: Recipe, run_dir: Path, gpu: Gpu, gpus_per_node: int, num_nodes: int, *, now: float, warns: bool = False
) -> Outlook:
    """The outlook on these GPUs; `warns` adds what will go wrong in a Slurm job. Raises ConfigError if the planner does
    not know the model."""
    cluster = Cluster(gpu=gpu, gpus_per_node=gpus_per_node, num_nodes=num_nodes)
    shape = model_shape(recipe, {}, fetches=False)
    found = forecast(recipe, shape, cluster, data_size(recipe, run_dir, None, None))
    lines = [f"plan: {line}" for line in brief(found, steps_done=steps_done(run_dir), now=now)]
    return Outlook((*lines, *(warnings(found, recipe) if warns else ())), record(found))


def _on_cpus(recipe: Recipe, num_ranks: int) -> Outlook:
    cluster = Cluster(gpu=memory_only(CPU, host_memory() / num_ranks), gpus_per_node=num_ranks)
    memory = memory_on_cpus(recipe, model_shape(recipe, {}, fetches=False), cluster, precision_on_cpus(recipe))
    return Outlook((f"plan: {brief_on_cpus(memory, host_memory() / num_ranks)}",), record_on_cpus(memory))


def steps_done(run_dir: Path) -> int:
    """The newest step in metrics.jsonl, by the end of the file; 0 before the first."""
    try:
        with (run_dir / METRICS).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().split(b"\n")[1 if size > TAIL_BYTES else 0 : -1]
    except OSError:
        return 0
    events = (json.loads(line) for line in reversed(lines))
    return next((int(event["step"]) for event in events if event.get("event") in ("step", "start")), 0)
