"""Recipe + overrides + cluster -> Submission: a job script for sbatch, and the run directory that keeps it. Pure."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import LaunchError
from shardtune.launcher.plan.sweep import MOST_NUMBER, PREFIXES, SweepPlan
from shardtune.launcher.slurm.text import Nodes, output_pattern, partitions, render_script, script_body
from shardtune.recipe.load import machine_recipe
from shardtune.recipe.paths import local_folders
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.job import JobConfig, seconds_of
from shardtune.recipe.strategies import AUTO
from shardtune.run_dir.run import Run, find_run

JOB_SCRIPT, PREPARE_SCRIPT, SUBMISSION = "job.sbatch", "prepare.sbatch", "submission.json"
SUBMITTING = "submitting.json"
"""The lock of the one command that submits a job of this run directory just now."""
CODE_DIR = Path(str(files("shardtune"))).parent


@dataclass(frozen=True)
class Submission:
    """One job for sbatch."""

    recipe: Recipe
    recipe_path: Path
    run_dir: Path
    options: tuple[str, ...]
    """sbatch options of the script's header."""
    depends: str | None
    script: str
    script_path: Path

    @property
    def run(self) -> Run:
        """The run that the job trains."""
        return Run(self.recipe, self.run_dir, self.recipe_path)

    def describe(self) -> str:
        """The plan in readable form (`shardtune submit --dry-run`)."""
        return f"run directory  {self.run_dir}\njob script     {self.script_path}\n\n{self.script}"


@dataclass(frozen=True)
class Share:
    """The resources to request on each node."""

    gpus: int
    cpus: int | None
    """None leaves the number to the cluster."""


def plan_submission(
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    cluster: Sequence[Nodes] | None,
    *,
    depends: str | None = None,
) -> Submission:
    """Plans `shardtune submit`; `cluster` is None where Slurm is not available.

    Raises ConfigError, CheckpointError or LaunchError if the job is not possible.
    """
    run = find_run(path, overrides, run_dir)
    recipe, run_dir = run.recipe, run.run_dir
    if recipe.engine.deepspeed != AUTO:  # which the job chooses for the nodes that it gets
        ds_config_of(recipe, hidden_size=None)
    share = share_of_node(recipe.job, cluster)
    options = [
        f"--job-name={run_dir.name}",
        f"--comment={run_dir}",
        f"--output={output_pattern(run_dir / 'logs')}/slurm-%j.out",
        *resource_options(recipe.job, share),
        *(() if depends is None else (f"--dependency={depends}", "--kill-on-invalid-dep=yes")),
        *recipe.job.sbatch_options,
    ]
    script = render_script(options, job_environment(recipe, run_dir), [str(run_dir)], script_body("finetune.sh"))
    return Submission(recipe, path, run_dir, tuple(options), depends, script, run_dir / JOB_SCRIPT)


def plan_preparation(training: Submission) -> Submission:
    """Plans the CPU job that reads and tokenizes the data ahead of the training job."""
    recipe, run_dir = training.recipe, training.run_dir
    given = {
        "job-name": f"{run_dir.name}-prepare",
        "output": f"{output_pattern(run_dir / 'logs')}/prepare-%j.out",
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": recipe.job.prepare_cpus,
        "partition": recipe.job.prepare_partition or recipe.job.partition,
        "account": recipe.job.account,
        "qos": recipe.job.qos,
        "dependency": training.depends,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    options += [] if training.depends is None else ["--kill-on-invalid-dep=yes"]
    script = render_script(options, job_environment(recipe, run_dir), [str(run_dir)], script_body("prepare.sh"))
    path = run_dir / PREPARE_SCRIPT
    return Submission(recipe, training.recipe_path, run_dir, tuple(options), training.depends, script, path)


def plan_doctor(overrides: Sequence[str], folder: Path, cluster: Sequence[Nodes] | None) -> Submission:
    """Plans the job that checks nodes (`shardtune doctor --nodes=N`); it writes its output into a shared folder.

    Raises ConfigError or LaunchError if the job is not possible.
    """
    recipe = machine_recipe([*overrides, "job.max_requeues=0", "job.on_lost_node=requeue"])
    options = [
        "--job-name=shardtune-doctor",
        f"--output={output_pattern(folder)}/doctor.out",
        *resource_options(recipe.job, share_of_node(recipe.job, cluster)),
        *recipe.job.sbatch_options,
    ]
    words = [override for override in overrides if override.startswith(("job.ranks", "job.device"))]
    script = render_script(options, job_environment(recipe, folder), words, script_body("doctor.sh"))
    return Submission(recipe, folder, folder, tuple(options), None, script, folder / JOB_SCRIPT)


def plan_array(
    sweep: SweepPlan, numbers: Sequence[int], cluster: Sequence[Nodes] | None, *, parallel: int | None
) -> Submission:
    """Plans the job array of `shardtune sweep`: a task for each of these points, at most `parallel` at a time.

    Raises LaunchError if the array is not possible.
    """
    recipe = sweep.points[0].recipe
    if any(point.recipe.job != recipe.job for point in sweep.points):
        raise LaunchError(
            "all points of a job array must have the same job keys; do not vary job keys, or use sweep --local"
        )
    if (highest := max(numbers)) > MOST_NUMBER:
        raise LaunchError(
            f"train.seeds: {highest} cannot be the number of a task in a job array, at most {MOST_NUMBER} can "
            "(MaxArraySize); give smaller seeds, or train here with shardtune run"
        )
    options = [
        f"--job-name={sweep.sweep_dir.name}",
        f"--comment={sweep.sweep_dir}",
        f"--array={','.join(map(str, numbers))}{'' if parallel is None else f'%{parallel}'}",
        f"--output={output_pattern(sweep.sweep_dir)}/{PREFIXES[sweep.kind]}%a/logs/slurm-%A_%a.out",
        *resource_options(recipe.job, share_of_node(recipe.job, cluster)),
        *recipe.job.sbatch_options,
    ]
    environment = job_environment(recipe, sweep.sweep_dir)
    script = render_script(options, environment, [str(sweep.sweep_dir)], script_body("sweep.sh"))
    return Submission(
        recipe, sweep.recipe_path, sweep.sweep_dir, tuple(options), None, script, sweep.sweep_dir / JOB_SCRIPT
    )


def resource_options(job: JobConfig, share: Share) -> list[str]:
    """The sbatch options for the requested resources and for the signal before the end."""
    memory = job.memory_per_node_gb
    given = {
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": share.gpus or None,
        "cpus-per-task": share.cpus,
        "mem": f"{memory}G" if memory else memory,
        "partition": job.partition,
        "account": job.account,
        "qos": job.qos,
        "constraint": job.constraint,
        "time": job.time_limit,
        "signal": f"B:USR1@{job.stop_lead_s}",
        "open-mode": "append",
    }
    options = [f"--{name}={value}" for name, value in given.items() if value is not None]
    options += ["--no-kill"] if job.nodes > 1 and job.on_lost_node == "shrink" else []
    return [*options, "--requeue" if job.max_requeues else "--no-requeue"]


def job_environment(recipe: Recipe, run_dir: Path) -> dict[str, str]:
    """The environment variables that configure slurm/finetune.sh."""
    job = recipe.job
    environment = {"SHARDTUNE_PYTHON": job.python or ("python3" if job.container else sys.executable)}
    if (CODE_DIR / "pyproject.toml").is_file():  # a checkout, not a folder of installed packages
        environment["SHARDTUNE_CODE"] = str(CODE_DIR)
    if job.cpu_binding != "auto":
        environment["SHARDTUNE_CPU_BIND"] = job.cpu_binding
    if job.preamble:
        environment["SHARDTUNE_PREAMBLE"] = job.preamble
    if job.container:
        environment["SHARDTUNE_CONTAINER"] = job.container
        environment["SHARDTUNE_CONTAINER_RUNTIME"] = job.container_runtime
        folders = (*job.container_mounts, *map(str, local_folders(recipe)), str(run_dir))
        mounts = [mount if ":" in mount else f"{mount}:{mount}" for mount in folders if mount != "/"]
        environment["SHARDTUNE_CONTAINER_MOUNTS"] = ",".join(dict.fromkeys(mounts))
    return environment


def share_of_node(job: JobConfig, cluster: Sequence[Nodes] | None) -> Share:
    """The resources that a job requests on each node, given the nodes of the partition.

    Raises one LaunchError with a line for each request that the partition cannot satisfy.
    """
    if cluster is None:
        if job.gpus_per_node is None and job.device != "cpu":
            raise LaunchError(
                "job.gpus_per_node: Slurm is not available here, so the GPUs of its nodes are unknown; set it"
            )
        return Share(job.gpus_per_node or 0, job.cpus_per_node)
    kinds = [
        nodes for nodes in cluster if (nodes.is_default if job.partition is None else nodes.partition == job.partition)
    ]
    if not kinds:
        what = "the cluster has no default" if job.partition is None else f"unknown partition {job.partition!r}"
        raise LaunchError(f"job.partition: {what}; choose from:\n  " + "\n  ".join(partitions(cluster)))
    gpus = _gpus(job, kinds)
    faults = list(_faults(job, kinds, gpus))
    if faults:
        raise LaunchError("\n".join(faults) + "\n  " + "\n  ".join(partitions(kinds)))
    node = min((nodes for nodes in kinds if nodes.gpus >= gpus), key=lambda nodes: nodes.cpus)
    cpus = max(1, node.cpus * gpus // node.gpus) if gpus else node.cpus
    return Share(gpus, job.cpus_per_node or cpus)


def _gpus(job: JobConfig, kinds: Sequence[Nodes]) -> int:
    if job.gpus_per_node is not None:
        return job.gpus_per_node
    if job.device == "cpu":
        return 0
    counts = sorted({nodes.gpus for nodes in kinds if nodes.gpus})
    if len(counts) > 1:
        words = " or ".join(map(str, counts))
        raise LaunchError(
            f"job.gpus_per_node: the nodes of {kinds[0].partition} have {words} GPUs; set one of these numbers"
        )
    return counts[0] if counts else 0


def _faults(job: JobConfig, kinds: Sequence[Nodes], gpus: int) -> Iterator[str]:
    where = kinds[0].partition
    if job.device == "cuda" and not gpus:
        yield f"job.device: cuda is requested, but {where} has no GPU, or job.gpus_per_node is 0"
    if gpus > (most := max(nodes.gpus for nodes in kinds)):
        yield f"job.gpus_per_node: {gpus} are requested, but no node of {where} has more than {most}"
    cpus = job.cpus_per_node or 0
    if cpus > (most := max(nodes.cpus for nodes in kinds)):
        yield f"job.cpus_per_node: {cpus} are requested, but no node of {where} has more than {most}"
    if job.nodes > (most := sum(nodes.num_nodes for nodes in kinds)):
        yield f"job.nodes: {job.nodes} are requested, but {where} has {most}"
    limit = max(math.inf if nodes.time_limit_s is None else nodes.time_limit_s for nodes in kinds)
    if job.time_limit is not None and seconds_of(job.time_limit) > limit:
        yield f"job.time_limit: {job.time_limit} exceeds the limit of {where}, {timedelta(seconds=limit)}"
    defaults = [nodes.default_time_s or nodes.time_limit_s or math.inf for nodes in kinds]
    if job.time_limit is None and (default := min(defaults)) <= job.stop_lead_s:
        yield (
            f"job.time_limit: not set, and the default of {where}, {timedelta(seconds=default)}, is not above "
            f"job.stop_lead_s ({job.stop_lead_s} s); set it"
        )
