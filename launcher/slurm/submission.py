"""Recipe + overrides + cluster -> Submission: what sbatch will be given, and the run directory that keeps it. Pure."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import LaunchError
from shardtune.launcher.plan.sweep import SweepPlan
from shardtune.launcher.slurm.text import Nodes, output_pattern, partitions, render_script, script_body
from shardtune.recipe.job import JobConfig, seconds_of
from shardtune.recipe.load import machines_alone
from shardtune.recipe.paths import local_folders
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.run import find_run

JOB_SCRIPT, PREPARE_SCRIPT, SUBMISSION = "job.sbatch", "prepare.sbatch", "submission.json"
CODE_DIR = Path(str(files("shardtune"))).parent


@dataclass(frozen=True)
class Submission:
    """One job for sbatch."""

    recipe: Recipe
    recipe_path: Path
    run_dir: Path
    options: tuple[str, ...]
    """Of sbatch."""
    depends: str | None
    script: str
    script_path: Path

    def describe(self) -> str:
        """The plan for a person to read (`shardtune submit --dry-run`)."""
        return f"run directory  {self.run_dir}\njob script     {self.script_path}\n\n{self.script}"


@dataclass(frozen=True)
class Share:
    """What is asked of each node."""

    gpus: int
    cpus: int | None
    """None leaves it to the cluster."""


def plan_submission(
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    cluster: Sequence[Nodes] | None,
    *,
    depends: str | None = None,
) -> Submission:
    """What `shardtune submit` will do; `cluster` is None where no Slurm answers.

    Raises ConfigError, CheckpointError or LaunchError for whatever is wrong with it.
    """
    run = find_run(path, overrides, run_dir)
    recipe, run_dir = run.recipe, run.run_dir
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
    """The job on CPUs that reads and tokenizes the data, for the one that trains to wait for."""
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
    """The job that checks nodes (`shardtune doctor --nodes=N`), and writes what it says into a folder of theirs all.

    Raises ConfigError or LaunchError for whatever is wrong with it.
    """
    recipe = machines_alone([*overrides, "job.max_requeues=0"])
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
    """What `shardtune sweep` hands in: a job array with a task for each of these points, so many at a time.

    Raises LaunchError for whatever is wrong with it.
    """
    recipe = sweep.points[0].recipe
    if any(point.recipe.job != recipe.job for point in sweep.points):
        raise LaunchError("the points of a job array ask for the same machines; vary no key of job, or sweep --local")
    options = [
        f"--job-name={sweep.sweep_dir.name}",
        f"--comment={sweep.sweep_dir}",
        f"--array={','.join(map(str, numbers))}{'' if parallel is None else f'%{parallel}'}",
        f"--output={output_pattern(sweep.sweep_dir)}/%a/logs/slurm-%A_%a.out",
        *resource_options(recipe.job, share_of_node(recipe.job, cluster)),
        *recipe.job.sbatch_options,
    ]
    environment = job_environment(recipe, sweep.sweep_dir)
    script = render_script(options, environment, [str(sweep.sweep_dir)], script_body("sweep.sh"))
    return Submission(
        recipe, sweep.recipe_path, sweep.sweep_dir, tuple(options), None, script, sweep.sweep_dir / JOB_SCRIPT
    )


def resource_options(job: JobConfig, share: Share) -> list[str]:
    """What the job asks of Slurm, and how it wants to be ended."""
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
    return [*options, "--requeue" if job.max_requeues else "--no-requeue"]


def job_environment(recipe: Recipe, run_dir: Path) -> dict[str, str]:
    """The settings of slurm/finetune.sh."""
    job = recipe.job
    environment = {"SHARDTUNE_PYTHON": job.python or ("python3" if job.container else sys.executable)}
    if (CODE_DIR / "pyproject.toml").is_file():  # a clone, and not a folder of installed packages
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
    """What of a node a job asks for, by what the partition's nodes have.

    Raises one LaunchError with a line for whatever the partition does not have.
    """
    if cluster is None:
        if job.gpus_per_node is None and job.device != "cpu":
            raise LaunchError("job.gpus_per_node: no Slurm answers here to say how many GPUs its nodes have; set it")
        return Share(job.gpus_per_node or 0, job.cpus_per_node)
    kinds = [its for its in cluster if (its.is_default if job.partition is None else its.partition == job.partition)]
    if not kinds:
        what = "the cluster has no default" if job.partition is None else f"there is no partition {job.partition!r}"
        raise LaunchError(f"job.partition: {what}; there are:\n  " + "\n  ".join(partitions(cluster)))
    gpus = _gpus(job, kinds)
    faults = list(_faults(job, kinds, gpus))
    if faults:
        raise LaunchError("\n".join(faults) + "\n  " + "\n  ".join(partitions(kinds)))
    node = min((its for its in kinds if its.gpus >= gpus), key=lambda its: its.cpus)
    cpus = max(1, node.cpus * gpus // node.gpus) if gpus else node.cpus
    return Share(gpus, job.cpus_per_node or cpus)


def _gpus(job: JobConfig, kinds: Sequence[Nodes]) -> int:
    if job.gpus_per_node is not None:
        return job.gpus_per_node
    if job.device == "cpu":
        return 0
    counts = sorted({its.gpus for its in kinds if its.gpus})
    if len(counts) > 1:
        words = " or ".join(map(str, counts))
        raise LaunchError(
            f"job.gpus_per_node: the nodes of {kinds[0].partition} have {words} GPUs; say how many you want"
        )
    return counts[0] if counts else 0


def _faults(job: JobConfig, kinds: Sequence[Nodes], gpus: int) -> Iterator[str]:
    where = kinds[0].partition
    if job.device == "cuda" and not gpus:
        yield f"job.device: cuda is asked for, but {where} has no GPU, or job.gpus_per_node is 0"
    if gpus > (most := max(its.gpus for its in kinds)):
        yield f"job.gpus_per_node: {gpus} are asked for, but no node of {where} has more than {most}"
    cpus = job.cpus_per_node or 0
    if cpus > (most := max(its.cpus for its in kinds)):
        yield f"job.cpus_per_node: {cpus} are asked for, but no node of {where} has more than {most}"
    if job.nodes > (most := sum(its.num_nodes for its in kinds)):
        yield f"job.nodes: {job.nodes} are asked for, but {where} has {most}"
    limit = max(math.inf if its.time_limit_s is None else its.time_limit_s for its in kinds)
    if job.time_limit is not None and seconds_of(job.time_limit) > limit:
        yield f"job.time_limit: {job.time_limit} is more than the {timedelta(seconds=limit)} that {where} gives"
