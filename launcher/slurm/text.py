"""Slurm's texts: the job script for sbatch, and the output of sbatch, squeue and sinfo as values. Pure."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from shardtune.errors import LaunchError

SCRIPTS = files("shardtune") / "slurm"
BODY = "# ---- The job."
"""The first line of the part of a script in slurm/ that is copied into a run directory."""

SINFO_FORMAT = "%P|%D|%c|%m|%G|%l|%L"
SQUEUE_FORMAT = "%A|%i|%T|%r|%N|%D|%M|%L|%S|%P|%k"


def render_script(options: Sequence[str], environment: Mapping[str, str], arguments: Sequence[str], body: str) -> str:
    """A script of slurm/ with a header that sets its sbatch options, environment and arguments."""
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {quote_option(option)}" for option in options),
        "",
        "# shellcheck disable=SC2016,SC2317 # a $ in a name is not a variable; functions are called by name",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f"set -- {shlex.join(arguments)}",
        "",
        body,
    ]
    return "\n".join(lines)


def script_body(script: str) -> str:
    """A script of slurm/ without its header, with the scripts that it sources inlined."""
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    return re.sub(
        r'^# shellcheck source=\S+\nsource "\$\w+/slurm/(\w+\.sh)"$',
        lambda match: script_body(match.group(1)).rstrip(),
        text[text.index(BODY) :],
        flags=re.MULTILINE,
    )


def quote_option(option: str) -> str:
    """The option as an #SBATCH line needs it: in double quotes, unless it is plain."""
    if not option.isprintable():
        raise LaunchError(f"an sbatch option may contain printable characters only, got {option!r}")
    if re.fullmatch(r"[\w@%+=:,./^\[\]-]+", option):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def output_pattern(path: Path) -> str:
    """A path as --output takes it, with % escaped, which stands for job ids and the like."""
    if "\\" in str(path):
        raise LaunchError(f"{path}: Slurm cannot write to a path that contains a backslash; give another --run-dir")
    return str(path).replace("%", "%%")


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind in a partition."""

    partition: str
    is_default: bool
    num_nodes: int
    cpus: int
    memory_mb: int
    gpus: int
    time_limit_s: int | None
    """None: unlimited."""
    default_time_s: int | None = None
    """The time limit of a job that gives none; None: the partition's limit."""
    gpu_kind: str | None = None
    """The type of the GPUs in Slurm's gres; None if it gives none, or several."""


def parse_nodes(text: str) -> list[Nodes]:
    """Parses the output of `sinfo --noheader --exact --format=SINFO_FORMAT`."""
    nodes = []
    for line in text.splitlines():
        partition, num_nodes, cpus, memory, gres, limit, default = line.split("|", 6)
        nodes.append(
            Nodes(
                partition=partition.rstrip("*"),
                is_default=partition.endswith("*"),
                num_nodes=int(num_nodes),
                cpus=_leading_number(cpus),
                memory_mb=_leading_number(memory),
                gpus=parse_gpus(gres),
                time_limit_s=parse_duration(limit),
                default_time_s=parse_duration(default),
                gpu_kind=parse_gpu_kind(gres),
            )
        )
    return nodes


def parse_gpus(gres: str) -> int:
    """`gpu:a100:4(S:0-1),shard:8` -> 4; 0 for `(null)`."""
    items = re.sub(r"\([^)]*\)", "", gres).split(",")
    return sum(int(item.rsplit(":", 1)[1]) if ":" in item else 1 for item in items if item.split(":")[0] == "gpu")


def parse_gpu_kind(gres: str) -> str | None:
    """`gpu:a100:4(S:0-1),shard:8` -> a100; None for `gpu:4`, and if there are several kinds."""
    items = [item.split(":") for item in re.sub(r"\([^)]*\)", "", gres).split(",")]
    kinds = {item[1] for item in items if item[0] == "gpu" and len(item) == 3}
    return kinds.pop() if len(kinds) == 1 else None


def parse_duration(text: str) -> int | None:
    """`1-02:03:04`, `2:03` or `infinite` -> seconds; None for the last, and for any other text."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _leading_number(text: str) -> int:
    match = re.match(r"\d+", text)
    return int(match.group()) if match else 0


def parse_node_list(text: str) -> list[str]:
    """`node[1-2,07-08],x9` -> the names of the nodes; none for `(null)`."""
    if text in ("", "(null)"):
        return []
    names = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        texts = [""]
        for plain, bracket in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", item):
            texts = [before + part for before in texts for part in ([plain] if plain else _numbers(bracket))]
        names += texts
    return names


def _numbers(ranges: str) -> Iterator[str]:
    for span in ranges.split(","):
        first, _, last = span.partition("-")
        yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1))


@dataclass(frozen=True)
class QueuedJob:
    """A job in Slurm's queue, waiting or running."""

    number: str
    """Of an array task that has not started, the number of the array."""
    name: str
    """As users, scontrol and scancel write it: 12, or 12_3 for an array task."""
    state: str
    reason: str
    nodes: str
    num_nodes: int
    time_used: str
    time_left: str
    starts_at: str
    partition: str
    comment: str

    @property
    def is_running(self) -> bool:
        return self.state in ("RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "CONFIGURING", "SIGNALING", "STAGE_OUT")


def parse_queue(text: str) -> list[QueuedJob]:
    """Parses the output of `squeue --noheader --array --format=SQUEUE_FORMAT`."""
    jobs = []
    for line in text.splitlines():
        number, name, state, reason, nodes, num_nodes, used, left, starts, partition, comment = line.split("|", 10)
        jobs.append(
            QueuedJob(number, name, state, reason, nodes, int(num_nodes), used, left, starts, partition, comment)
        )
    return jobs


_REASONS = {
    "Resources": "waiting for free nodes",
    "Priority": "waiting behind jobs of higher priority",
    "Dependency": "waiting for another job",
    "DependencyNeverSatisfied": "the job that it depends on has failed: it will never run",
    "BeginTime": "requeued; it starts again soon",
    "JobHeldUser": "held by you; to release it: scontrol release JOB",
    "JobHeldAdmin": "held by an administrator",
    "ReqNodeNotAvail": "the nodes that it needs are down or reserved",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition does not start jobs now",
    "PartitionTimeLimit": "its time limit exceeds that of the partition: it will never run",
    "PartitionNodeLimit": "it requests more nodes than the partition allows: it will never run",
    "JobArrayTaskLimit": "the limit of array tasks that run at the same time is reached",
}


def explain_reason(reason: str) -> str:
    """Why a job is pending, in plain words for known reasons."""
    name = reason.split(",")[0].strip("()")
    if name in _REASONS:
        return _REASONS[name]
    if name.startswith(("QOS", "Assoc")):
        return f"a limit of your account or QOS is reached ({name})"
    return name


def parse_submitted(text: str) -> str:
    """The job number in the output of `sbatch --parsable`, without the cluster's name."""
    match = re.fullmatch(r"(\d+)(;.*)?", text.strip().splitlines()[-1] if text.strip() else "")
    if not match:
        raise LaunchError(f"expected a job number from sbatch, got {text.strip()!r}; look into squeue")
    return match.group(1)


_REFUSALS = {
    "Invalid partition": "job.partition: unknown partition",
    "Invalid feature": "job.constraint: no node has this feature",
    "Invalid account": "job.account, job.partition: unknown account, or it may not use this partition",
    "Invalid qos": "job.qos: unknown quality of service, or not available to this account",
    "Job violates accounting/QOS policy": "a limit of your account or QOS does not allow a job of this size or length",
    "Requested time limit is invalid": "job.time_limit: above the partition's limit, or missing where one is required",
    "Requested node configuration is not available": (
        "job.nodes, gpus_per_node, cpus_per_node, memory_per_node_gb: not enough nodes, or none, have these resources"
    ),
    "CPU count per node can not be satisfied": "job.cpus_per_node: no node has that many CPUs",
    "Memory required by task is not available": "job.memory_per_node_gb: no node has that much memory",
    "Memory specification can not be satisfied": "job.memory_per_node_gb: no node has that much memory",
    "Invalid generic resource": "job.gpus_per_node: this cluster has no such GPUs",
    "Invalid license": "job.sbatch_options: unknown license",
    "Node count specification invalid": "job.nodes: the partition does not allow that many nodes",
    "More processors requested than permitted": "job.nodes, job.cpus_per_node: more than a single job may have",
    "Unable to contact slurm controller": "Slurm's controller does not answer; try again later",
    "Job dependency problem": "--depends: unknown job, or it has already failed",
    "User's group not permitted": "job.partition: your group may not use this partition",
}


def explain_refusal(errors: str) -> str:
    """The message of an sbatch that refused a job, preceded by its meaning if that is known."""
    lines = [re.sub(r"^(sbatch: |allocation failure: |error: )+", "", line).strip() for line in errors.splitlines()]
    words = "; ".join(dict.fromkeys(filter(None, lines)))
    meaning = next((meaning for key, meaning in _REFUSALS.items() if key.lower() in words.lower()), None)
    return f"{meaning} (sbatch: {words})" if meaning else f"sbatch refused the job: {words}"


def parse_test(output: str) -> str | None:
    """When and where the job would start, from the output of `sbatch --test-only`; None if that does not tell."""
    match = re.search(r"Job \d+ to start at (\S+) .*?on nodes (\S+)", output)
    return f"{match.group(1)} on {match.group(2)}" if match else None


def partitions(nodes: Sequence[Nodes]) -> Iterator[str]:
    """A line for each kind of node, for messages."""
    for kind in nodes:
        gpus = f", {kind.gpus} GPUs" if kind.gpus else ""
        default = " (default)" if kind.is_default else ""
        resources = f"{kind.num_nodes} nodes of {kind.cpus} CPUs, {kind.memory_mb // 1024} GiB{gpus}"
        yield f"{kind.partition}{default}: {resources}"
