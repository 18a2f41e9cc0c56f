"""The `job` section: what is requested of one machine, or of a Slurm cluster."""

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
        raise ValueError(f"{name} is set by {OWNED_BY_JOB[name]}; remove it here")
    return text


def _a_binding(text: str) -> str:
    if not re.fullmatch(r"auto|(verbose,)?(none|cores|sockets|threads|ldoms|(map|mask)_(cpu|ldom):[\w,*]+)", text):
        raise ValueError(f"expected auto, none, cores, sockets, threads, ldoms or map_cpu:0,1, got {text!r}")
    return text


def _a_mount(text: str) -> str:
    if not re.fullmatch(r"/[^:,]*(:/[^:,]*(:[a-z+]+)?)?", _on_one_line(text)):
        raise ValueError(f"expected /HERE:/THERE, or /HERE if the path is the same in both, got {text!r}")
    return text


def seconds_of(duration: str) -> int:
    """`1-02:00:00` -> 93600. Raises ValueError for anything but a positive `[D-]HH:MM:SS`."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", duration)
    if not match or not (seconds := _in_seconds(*(int(part or 0) for part in match.groups()))):
        raise ValueError(f"expected [D-]HH:MM:SS, got {duration!r}")
    return seconds


def _in_seconds(days: int, hours: int, minutes: int, seconds: int) -> int:
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


OneLine = Annotated[str, AfterValidator(_on_one_line)]
OWNED_BY_JOB = {
    "--nodes": "job.nodes",
    "--ntasks": "job.nodes (one task per node)",
    "--ntasks-per-node": "job.nodes (one task per node)",
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
    "--no-kill": "job.on_lost_node",
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
"""Options of sbatch that job.sbatch_options may not contain -> what sets them instead."""


class JobConfig(Section):
    """The machines and how ranks are started on them. Nothing here changes what is learned. The keys from nodes on are
    for `shardtune submit`, on a Slurm cluster."""

    backend: Literal["torchrun", "deepspeed"] = "torchrun"
    """The launcher that starts the ranks of `shardtune run`; on Slurm it is always torchrun."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses the available GPUs, or the CPU if there are none."""
    ranks: PositiveInt | None = None
    """Ranks (worker processes) per machine. None starts one per GPU, or 2 on a CPU."""
    threads_per_rank: PositiveInt | None = None
    """CPU threads per rank. None divides the cores of the machine evenly."""
    nodes: PositiveInt = 1
    """Number of machines."""
    gpus_per_node: Annotated[int, Field(ge=0)] | None = None
    """GPUs per node. None requests all GPUs of a node in the partition, or none with `device: cpu`."""
    cpus_per_node: PositiveInt | None = None
    """CPUs per node, as Slurm counts them. None requests the same share of a node's CPUs as of its GPUs, or all CPUs if
    it has no GPUs."""
    memory_per_node_gb: Annotated[int, Field(ge=0)] | None = None
    """CPU memory per node, in GiB; 0 requests all memory of a node. None uses the cluster's default."""
    partition: OneLine | None = None
    """The Slurm partition. None uses the cluster's default."""
    prepare_partition: OneLine | None = None
    """The partition of the job that tokenizes first (`submit --prepare`), for instance one without GPUs. None uses
    partition."""
    prepare_cpus: PositiveInt = 8
    """CPUs of the job that tokenizes first."""
    account: OneLine | None = None
    """The Slurm account that is charged."""
    qos: OneLine | None = None
    """The Slurm quality of service."""
    constraint: OneLine | None = None
    """Features that the nodes must have, such as `a100&ib`."""
    time_limit: Annotated[str, AfterValidator(_a_duration)] | None = None
    """Time limit of one start, as `[D-]HH:MM:SS`. None uses the partition's default."""
    stop_lead_s: Annotated[int, Field(ge=10, le=65535)] = 300
    """Seconds before the time limit at which the run saves a checkpoint and stops. It also does so when a preemption is
    announced."""
    max_requeues: Annotated[int, Field(ge=0)] = 10
    """How often the job requeues itself after it was stopped by the time limit, provided it made progress each time.
    Preemptions, node failures and restarts with a smaller train.micro_batch_tokens (`auto`) do not count against this.
    0 never requeues, for any reason."""
    on_lost_node: Literal["shrink", "requeue"] = "shrink"
    """What a job of several nodes does when Slurm loses one: `shrink` goes on with the nodes that are left, in the same
    job, as long as they are at least half of them; `requeue` waits in the queue for all nodes again."""
    exclude_bad_nodes: bool = False
    """Requeues the job without nodes that the checks before training report as slow, sick or unfit, or whose GPU
    failed. Each node is excluded once; with max_requeues 0 none is."""
    sbatch_options: Annotated[tuple[Annotated[str, AfterValidator(_an_option)], ...], Field(strict=False)] = ()
    """Further options of sbatch, such as `[--exclude=node7, --mail-type=END]`."""
    cpu_binding: Annotated[str, AfterValidator(_a_binding)] = "auto"
    """How ranks are bound to the CPUs of a node, in the syntax of `srun --cpu-bind`: none, cores, sockets, ldoms,
    map_cpu:0,1, and so on. `auto` binds only to the CPUs that Slurm allocated to the job."""
    numa_binding: Literal["auto", "none"] = "auto"
    """`auto` binds each rank to the CPU cores of the NUMA node that its GPU is attached to, on machines with several,
    as long as they are enough for the threads of its ranks (threads_per_rank) and Slurm has not bound it already
    (cpu_binding). `none` leaves ranks free to use all cores. CPU ranks are never bound."""
    preamble: OneLine | None = None
    """A bash file that is sourced on every node before anything is started there, for instance to load modules or set
    NCCL variables."""
    container: OneLine | None = None
    """The container image that Python runs in: for pyxis as in `nvcr.io#nvidia/pytorch:25.01-py3` or a .sqsh file, for
    Apptainer any image that it accepts."""
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    """pyxis is Slurm's plugin for enroot (`srun --container-image`)."""
    container_mounts: Annotated[tuple[Annotated[str, AfterValidator(_a_mount)], ...], Field(strict=False)] = ()
    """Folders to mount in the container, each as `/here:/there`, in addition to those that the recipe names."""
    python: OneLine | None = None
    """The Python interpreter on the nodes. None uses the one that submits, or `python3` in a container."""

    @model_validator(mode="after")
    def _there_is_time_to_stop(self) -> "JobConfig":
        if self.time_limit is not None and seconds_of(self.time_limit) <= self.stop_lead_s:
            raise ValueError(f"time_limit ({self.time_limit}) must be above stop_lead_s ({self.stop_lead_s} s)")
        return self
