"""A run and its machines -> the lines that it says of its plan before it starts, and what is kept of it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardtune.errors import ShardtuneError
from shardtune.known_machine.fingerprint import identify
from shardtune.known_machine.store import Known, read_known
from shardtune.launcher.plan.forecast import basis_of
from shardtune.launcher.plan.job import JobPlan
from shardtune.launcher.plan.model_and_data import data_size, model_shape, precision_on_cpus
from shardtune.machine.host_memory import host_memory
from shardtune.planner.forecast.brief import brief, brief_on_cpus, record, record_on_cpus, warnings
from shardtune.planner.forecast.forecast import forecast
from shardtune.planner.forecast.on_cpus import Ranks, on_cpus
from shardtune.planner.hardware import Gpu, find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.measured.basis import NOTHING, Basis
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
            return on_this_cpu(plan, now=now)
        if plan.gpu_name is None:
            return Outlook(("plan: none, because the kind of the GPUs is not known",), None)
        known = read_known(identify(plan.machine_gpus))
        gpu, basis = find_gpu(plan.gpu_name), basis_of(known)
        return noticed(known, on_gpus(plan.recipe, plan.run_dir, gpu, plan.world_size, 1, now=now, basis=basis))
    except Exception as error:  # a plan is an extra: whatever it fails of must not cost the run
        return Outlook((no_plan(error),), None)


def no_plan(error: Exception) -> str:
    """One line that says why there is no plan."""
    (reason, *_) = str(error).splitlines() or [""]
    reason = reason.split("; known: ")[0]
    return f"plan: none: {reason if isinstance(error, ShardtuneError) else f'{type(error).__name__}: {reason}'}"


def on_gpus(
    recipe: Recipe,
    run_dir: Path,
    gpu: Gpu,
    gpus_per_node: int,
    num_nodes: int,
    *,
    now: float,
    warns: bool = False,
    basis: Basis = NOTHING,
) -> Outlook:
    """The outlook on these GPUs; `warns` adds what will go wrong in a Slurm job, and the basis is what is known of the
    machine if it is this one. Raises ConfigError if the planner does
    not know the model."""
    cluster = Cluster(gpu=gpu, gpus_per_node=gpus_per_node, num_nodes=num_nodes)
    shape = model_shape(recipe, {}, fetches=False)
    found = forecast(recipe, shape, cluster, data_size(recipe, run_dir, None, None), basis=basis)
    lines = [f"plan: {line}" for line in brief(found, steps_done=steps_done(run_dir), now=now)]
    return Outlook((*lines, *(warnings(found, recipe) if warns else ())), record(found, basis.machine))


def on_this_cpu(plan: JobPlan, *, now: float) -> Outlook:
    """The outlook of CPU ranks on this machine. Raises ConfigError if the planner does not know the model."""
    known = read_known(identify(plan.machine_gpus))
    return noticed(known, _on_cpus(plan.recipe, plan.run_dir, plan.world_size, basis_of(known), now=now))


def on_cpus_of_job(recipe: Recipe, run_dir: Path, num_ranks: int, *, now: float) -> Outlook:
    """The outlook of a Slurm job of so many CPU ranks of one node, if that is like this machine."""
    known = read_known(identify())
    # What the job becomes is not learned of this machine, on which it may not run.
    basis = replace(basis_of(known), machine=None)
    return noticed(known, _on_cpus(recipe, run_dir, num_ranks, basis, now=now, warns=True))


def _on_cpus(
    recipe: Recipe, run_dir: Path, num_ranks: int, basis: Basis, *, now: float, warns: bool = False
) -> Outlook:
    share = host_memory() / num_ranks
    ranks = Ranks(num_ranks, precision_on_cpus(recipe), share)
    found = on_cpus(
        recipe, model_shape(recipe, {}, fetches=False), ranks, data_size(recipe, run_dir, None, None), basis
    )
    if found.forecast is None:
        line = brief_on_cpus(found.memory, share, found.why_not or "")
        return Outlook((f"plan: {line}",), record_on_cpus(found.memory, found.subject, basis.machine))
    lines = [f"plan: {line}" for line in brief(found.forecast, steps_done=steps_done(run_dir), now=now)]
    more = warnings(found.forecast, recipe) if warns else ()
    return Outlook((*lines, *more), record(found.forecast, basis.machine))


def noticed(known: Known, outlook: Outlook) -> Outlook:
    """The outlook, after a line on files that cannot be used."""
    return outlook if known.notice is None else replace(outlook, lines=(f"plan: {known.notice}", *outlook.lines))


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
