"""Slurm's words: the script that sbatch is given, and what sbatch, squeue and sinfo say. Text in, values out; pure."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from shardtune.errors import LaunchError

SCRIPTS = files("shardtune") / "slurm"
BODY = "# ---- The job."
"""The line of a script in slurm/ that begins with this and all after it are frozen into a run directory."""

SINFO_FORMAT = "%P|%D|%c|%m|%G|%l"
SQUEUE_FORMAT = "%A|%i|%T|%r|%N|%D|%M|%L|%S|%P|%k"


def render_script(options: Sequence[str], environment: Mapping[str, str], arguments: Sequence[str], body: str) -> str:
    """A script of slurm/ with a header of its own: options of sbatch, and what else it would have been called with."""
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {quote_option(option)}" for option in options),
        "",
        "# shellcheck disable=SC2016,SC2317 # a $ in a name is none of the shell's; functions that are called by name",
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f"set -- {shlex.join(arguments)}",
        "",
        body,
    ]
    return "\n".join(lines)


def script_body(script: str) -> str:
    """What of a script in slurm/ is frozen: all but its header, with the scripts that it sources in their places."""
    text = (SCRIPTS / script).read_text(encoding="utf-8")
    return re.sub(
        r'^# shellcheck source=\S+\nsource "\$\w+/slurm/(\w+\.sh)"$',
        lambda found: script_body(found.group(1)).rstrip(),
        text[text.index(BODY) :],
        flags=re.MULTILINE,
    )


def quote_option(option: str) -> str:
    """The option as an #SBATCH line must hold it: in double quotes, unless it is plain."""
    if not option.isprintable():
        raise LaunchError(f"an option of sbatch can hold printable characters only, got {option!r}")
    if re.fullmatch(r"[\w@%+=:,./^\[\]-]+", option):
        return option
    escaped = option.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def output_pattern(path: Path) -> str:
    """A path as --output takes it, where % stands for job ids and the like."""
    if "\\" in str(path):
        raise LaunchError(f"{path}: Slurm cannot write to a path with a backslash in it; give another --run-dir")
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
    """None: as long as one likes."""


def parse_nodes(text: str) -> list[Nodes]:
    """`sinfo --noheader --exact --format=SINFO_FORMAT`."""
    found = []
    for line in text.splitlines():
        partition, num_nodes, cpus, memory, gres, limit = line.split("|", 5)
        found.append(
            Nodes(
                partition=partition.rstrip("*"),
                is_default=partition.endswith("*"),
                num_nodes=int(num_nodes),
                cpus=_leading_number(cpus),
                memory_mb=_leading_number(memory),
                gpus=parse_gpus(gres),
                time_limit_s=parse_duration(limit),
            )
        )
    return found


def parse_gpus(gres: str) -> int:
    """`gpu:a100:4(S:0-1),shard:8` -> 4; 0 for `(null)`."""
    items = re.sub(r"\([^)]*\)", "", gres).split(",")
    return sum(int(item.rsplit(":", 1)[1]) if ":" in item else 1 for item in items if item.split(":")[0] == "gpu")


def parse_duration(text: str) -> int | None:
    """`1-02:03:04`, `2:03` or `infinite` -> seconds; None for the last, and for what is none."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(?:(\d+):)?(\d+):)?(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _leading_number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def parse_node_list(text: str) -> list[str]:
    """`node[1-2,07-08],x9` -> the nodes' names; none for `(null)`."""
    if text in ("", "(null)"):
        return []
    names = []
    for item in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        texts = [""]
        for plain, bracket in re.findall(r"([^\[\]]+)|\[([^\]]*)\]", item):
            texts = [before + its for before in texts for its in ([plain] if plain else _numbers(bracket))]
        names += texts
    return names


def _numbers(ranges: str) -> Iterator[str]:
    for its in ranges.split(","):
        first, _, last = its.partition("-")
        yield from (f"{number:0{len(first)}}" for number in range(int(first), int(last or first) + 1))


@dataclass(frozen=True)
class QueuedJob:
    """A job that Slurm still knows."""

    number: str
    """Of a part of an array that is yet to begin, the whole array's."""
    name: str
    """As users write it, and scontrol and scancel take it: 12, or 12_3 for a part of an array."""
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
    """`squeue --noheader --array --format=SQUEUE_FORMAT`."""
    jobs = []
    for line in text.splitlines():
        number, name, state, reason, nodes, num_nodes, used, left, starts, partition, comment = line.split("|", 10)
        jobs.append(
            QueuedJob(number, name, state, reason, nodes, int(num_nodes), used, left, starts, partition, comment)
        )
    return jobs


_REASONS = {
    "Resources": "it waits for nodes to become free",
    "Priority": "other jobs are before it",
    "Dependency": "it waits for another job",
    "DependencyNeverSatisfied": "the job that it waits for has failed: it will never run",
    "BeginTime": "it was put back, and begins again soon",
    "JobHeldUser": "it is held: scontrol release",
    "JobHeldAdmin": "an administrator holds it",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition takes no jobs now",
    "PartitionTimeLimit": "it asks for more time than its partition gives: it will never run",
    "PartitionNodeLimit": "it asks for more nodes than its partition gives: it will never run",
    "JobArrayTaskLimit": "as many parts of the array run as may",
}


def explain_reason(reason: str) -> str:
    """Why a job is pending, in plain words where they are known."""
    name = reason.split(",")[0].strip("()")
    if name in _REASONS:
        return _REASONS[name]
    if name.startswith(("QOS", "Assoc")):
        return f"a limit of your account or QOS is reached ({name})"
    return name


def parse_submitted(text: str) -> str:
    """`sbatch --parsable`: the job's number, without the cluster's name."""
    found = re.fullmatch(r"(\d+)(;.*)?", text.strip().splitlines()[-1] if text.strip() else "")
    if not found:
        raise LaunchError(f"sbatch gave no job number, but {text.strip()!r}")
    return found.group(1)


_REFUSALS = {
    "Invalid partition": "job.partition: there is no such partition",
    "Invalid feature": "job.constraint: no node has such a feature",
    "Invalid account": "job.account, job.partition: this account is not known, or may not use this partition",
    "Invalid qos": "job.qos: there is no such quality of service, or it is not for this account",
    "Job violates accounting/QOS policy": "a limit of your account or QOS does not allow a job of this size or length",
    "Requested time limit is invalid": "job.time_limit: the partition does not give so much, or wants one to be set",
    "Requested node configuration is not available": (
        "job.nodes, gpus_per_node, cpus_per_node, memory_per_node_gb: no node is like that, or not so many are"
    ),
    "CPU count per node can not be satisfied": "job.cpus_per_node: no node has so many CPUs",
    "Memory required by task is not available": "job.memory_per_node_gb: no node has so much memory",
    "Memory specification can not be satisfied": "job.memory_per_node_gb: no node has so much memory",
    "Invalid generic resource": "job.gpus_per_node: this cluster has no GPUs of that name",
    "Invalid license": "job.sbatch_options: there is no such license",
    "Node count specification invalid": "job.nodes: the partition does not give so many nodes",
    "More processors requested than permitted": "job.nodes, job.cpus_per_node: more than one job may have",
    "Unable to contact slurm controller": "Slurm's controller does not answer; try again later",
    "Job dependency problem": "--depends: no such job, or it has failed already",
    "User's group not permitted": "job.partition: your group may not use this partition",
}


def explain_refusal(said: str) -> str:
    """What sbatch said when it refused a job, after what it means where that is known."""
    lines = [re.sub(r"^(sbatch: |allocation failure: |error: )+", "", line).strip() for line in said.splitlines()]
    words = "; ".join(dict.fromkeys(filter(None, lines)))
    meaning = next((meaning for key, meaning in _REFUSALS.items() if key.lower() in words.lower()), None)
    return f"{meaning} (sbatch: {words})" if meaning else f"sbatch refused the job: {words}"


def parse_test(said: str) -> str | None:
    """`sbatch --test-only`: when and where the job would start, in its words."""
    found = re.search(r"Job \d+ to start at (\S+) .*?on nodes (\S+)", said)
    return f"{found.group(1)} on {found.group(2)}" if found else None


def partitions(nodes: Sequence[Nodes]) -> Iterator[str]:
    """A line for each kind of node, for a person to choose from."""
    for its in nodes:
        gpus = f", {its.gpus} GPUs" if its.gpus else ""
        default = " (default)" if its.is_default else ""
        yield f"{its.partition}{default}: {its.num_nodes} nodes of {its.cpus} CPUs, {its.memory_mb // 1024} GiB{gpus}"
