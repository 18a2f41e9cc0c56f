"""What may be asked of the machines, one or a Slurm cluster's."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, model_validator

from shardtune.section import Section


def _on_one_line(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError(f"expected printable text on one line, got {text!r}")
    return text


def _a_duration(text: str) -> str:
    seconds_of(text)
    return text


def _an_option(text: str) -> str:
    name = _on_one_line(text).split("=", 1)[0]
    if not re.fullmatch(r"--[a-z][a-z-]*", name):
        raise ValueError(f"expected a long option of sbatch, such as --mail-type=END, got {text!r}")
    if name in OWNED_BY_JOB:
        raise ValueError(f"{name} is what {OWNED_BY_JOB[name]} is for")
    return text


def _a_binding(text: str) -> str:
    if not re.fullmatch(r"auto|(verbose,)?(none|cores|sockets|threads|ldoms|(map|mask)_(cpu|ldom):[\w,*]+)", text):
        raise ValueError(f"expected auto, none, cores, sockets, threads, ldoms or map_cpu:0,1, got {text!r}")
    return text


def _a_mount(text: str) -> str:
    if not re.fullmatch(r"/[^:,]*(:/[^:,]*(:[a-z+]+)?)?", _on_one_line(text)):
        raise ValueError(f"expected /HERE:/THERE or a folder that is /HERE in both, got {text!r}")
    return text


def seconds_of(duration: str) -> int:
    """`1-02:00:00` -> 93600; raises ValueError for what is no `[D-]HH:MM:SS`."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", duration)
    if not found or not (seconds := _in_seconds(*(int(part or 0) for part in found.groups()))):
        raise ValueError(f"expected [D-]HH:MM:SS, got {duration!r}")
    return seconds


def _in_seconds(days: int, hours: int, minutes: int, seconds: int) -> int:
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


OneLine = Annotated[str, AfterValidator(_on_one_line)]
OWNED_BY_JOB = {
    "--nodes": "job.nodes",
    "--ntasks": "job.nodes: there is one task a node,",
    "--ntasks-per-node": "job.nodes: there is one task a node,",
    "--gpus-per-node": "job.gpus_per_node",
    "--gpus": "job.gpus_per_node",
    "--cpus-per-task": "job.cpus_per_node",
    "--mem": "job.memory_per_node_gb",
    "--partition": "job.partition",
    "--account": "job.account",
    "--qos": "job.qos",
    "--constraint": "job.constraint",
    "--time": "job.time_limit",
    "--signal": "job.stop_lead_s",
    "--requeue": "job.max_requeues",
    "--no-requeue": "job.max_requeues",
    "--array": "`shardtune sweep`",
    "--dependency": "`shardtune submit --depends`",
    "--job-name": "the run directory's name",
    "--comment": "the run directory's path",
    "--output": "RUN_DIR/logs",
    "--error": "RUN_DIR/logs",
    "--open-mode": "RUN_DIR/logs",
    "--chdir": "the working directory",
    "--wrap": "RUN_DIR/job.sbatch",
    "--parsable": "shardtune",
    "--wait": "`shardtune submit --wait`",
    "--test-only": "`shardtune submit --dry-run`",
    "--export": "job.preamble",
    "--cpu-bind": "job.cpu_binding",
}
"""Options of sbatch that job.sbatch_options may not hold -> what says the same."""


class JobConfig(Section):
    """What is asked of the machines. Nothing here changes what is learned. From nodes on, the keys are for
    `shardtune submit`, on a Slurm cluster."""

    backend: Literal["torchrun", "deepspeed"] = "torchrun"
    """Which launcher starts the ranks of `shardtune run`; on Slurm it is always torchrun."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs that are there, or else the CPU."""
    ranks: PositiveInt | None = None
    """Processes to start on each machine. None means one for each GPU, or 2 on a CPU."""
    threads_per_rank: PositiveInt | None = None
    """CPU threads of one rank. None shares the machine's cores out evenly."""
    nodes: PositiveInt = 1
    """Machines."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """GPUs on each of them. None means all that a node of the partition has, or none with `device: cpu`."""
    cpus_per_node: PositiveInt | None = None
    """CPUs on each of them, as Slurm counts them. None means as large a part of a node's as of its GPUs; all, where
    there are none."""
    memory_per_node_gb: Annotated[int, Field(ge=0)] | None = None
    """CPU memory on each of them, in GiB; 0 is all that a node has. None leaves it to the cluster."""
    partition: OneLine | None = None
    """The partition. None takes the cluster's default."""
    prepare_partition: OneLine | None = None
    """That of the job that tokenizes first (`submit --prepare`), if there is one without GPUs. None takes the same."""
    prepare_cpus: PositiveInt = 8
    """CPUs of that job."""
    account: OneLine | None = None
    """Whom the time is charged to."""
    qos: OneLine | None = None
    """The quality of service."""
    constraint: OneLine | None = None
    """Features that the nodes must have, such as `a100&ib`."""
    time_limit: Annotated[str, AfterValidator(_a_duration)] | None = None
    """The longest time of one start, as `[D-]HH:MM:SS`. None takes the partition's default."""
    stop_lead_s: Annotated[int, Field(ge=10, le=65535)] = 300
    """So long before the time limit, and where a preemption is announced, the run saves a checkpoint and stops."""
    max_requeues: Annotated[int, Field(ge=0)] = 10
    """How often the job puts itself back into the queue after the time limit has stopped it, if it has got further each
    time. Preemptions, node failures and a train.micro_batch_tokens of auto that was too much put it back as often as
    they come; 0 never does, whatever has stopped it."""
    exclude_bad_nodes: bool = False
    """Puts the job back into the queue without a node that the checks before training find slow, sick or unfit, or
    whose GPU has failed. Each node is left once; with max_requeues 0 none is."""
    sbatch_options: Annotated[tuple[Annotated[str, AfterValidator(_an_option)], ...], Field(strict=False)] = ()
    """More options of sbatch, such as `[--exclude=node7, --mail-type=END]`."""
    cpu_binding: Annotated[str, AfterValidator(_a_binding)] = "auto"
    """What of a node's CPUs its ranks are bound to, in the words of `srun --cpu-bind`: none, cores, sockets, ldoms,
    map_cpu:0,1, … `auto` binds to nothing but what Slurm has given the job."""
    preamble: OneLine | None = None
    """A bash file that is sourced on every node before anything is started there: modules, NCCL's settings."""
    container: OneLine | None = None
    """The image that Python runs in: what pyxis takes (`nvcr.io#nvidia/pytorch:25.01-py3`, a .sqsh file), or what
    Apptainer does."""
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis is Slurm's plugin for enroot (`srun --container-image`)."""
    container_mounts: Annotated[tuple[Annotated[str, AfterValidator(_a_mount)], ...], Field(strict=False)] = ()
    """Folders that the container sees, each as `/here:/there`, besides those that the recipe names."""
    python: OneLine | None = None
    """Python on the nodes. None takes the one that submits, or `python3` of the container."""

    @model_validator(mode="after")
    def _there_is_time_to_stop(self) -> "JobConfig":
        if self.time_limit is not None and seconds_of(self.time_limit) <= self.stop_lead_s:
            raise ValueError(f"time_limit ({self.time_limit}) must be above stop_lead_s ({self.stop_lead_s} s)")
        return self
