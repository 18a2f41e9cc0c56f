"""The allocation of a Slurm job, read from its environment and scontrol. Pure."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

from shardtune.errors import LaunchError
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.slurm.text import parse_gpus
from shardtune.run_dir.lease import LEASE_TOKEN


@dataclass(frozen=True)
class Allocation:
    """The nodes of one start of a job."""

    job: str
    restart: int
    """How often Slurm had started the job before."""
    nodes: str
    """In Slurm's compact form, such as node[1-2]."""
    num_nodes: int
    machine: Machine
    """The share of the first node; all nodes have the same."""
    details: Mapping[str, str]
    """The fields of `scontrol show job`."""
    cluster: str | None = None
    shell: int | None = None
    """The process id of the batch shell."""
    lease: str | None = None
    """The token of the lease that the begin of this start has taken."""
    step_gpus: int | None = None
    """The GPUs per node to request for a step; None if a step gets those of the batch script."""


def parse_allocation(environment: Mapping[str, str], details: str) -> Allocation:
    """The allocation of the job that this process belongs to. Raises LaunchError outside of a job."""
    job, fields = environment.get("SLURM_JOB_ID"), parse_details(details)
    if not job:
        raise LaunchError("not inside a Slurm job (SLURM_JOB_ID is not set); to submit one: shardtune submit RECIPE")
    num_nodes = int(environment.get("SLURM_JOB_NUM_NODES", "1"))
    on_node = int(environment.get("SLURM_GPUS_ON_NODE") or 0)
    requested = requested_gpus(fields, num_nodes) if fields else None
    num_gpus = min(requested or on_node, on_node)
    return Allocation(
        job=job,
        restart=int(environment.get("SLURM_RESTART_COUNT") or 0),
        nodes=environment.get("SLURM_JOB_NODELIST", ""),
        num_nodes=num_nodes,
        machine=Machine(
            num_gpus=num_gpus,
            num_cores=int(environment.get("SLURM_CPUS_ON_NODE", "1")),
            witness="Slurm has given",
        ),
        details=fields,
        cluster=environment.get("SLURM_CLUSTER_NAME"),
        shell=int(environment.get("SHARDTUNE_SHELL") or 0) or None,
        lease=environment.get(LEASE_TOKEN),
        step_gpus=num_gpus if num_gpus and requested is not None and requested != on_node else None,
    )


def requested_gpus(details: Mapping[str, str], num_nodes: int) -> int | None:
    """The GPUs that a job requested for each node: 0 if it requested none, None if they differ between nodes.

    With --exclusive the batch script sees all GPUs of its node, but a step gets only those that were requested.
    """
    for name, share in (("TresPerNode", 1), ("TresPerTask", 1), ("TresPerJob", num_nodes)):
        if total := parse_gpus(re.sub(r"gres[:/]", "", details.get(name, ""))):
            return None if total % share else total // share
    return 0


def parse_details(text: str) -> dict[str, str]:
    """`scontrol show job --oneliner` -> {field: value}; of a repeated field the first value, because users can write
    into later ones."""
    parts = re.split(r"(?:^|\s)([A-Z][A-Za-z]*(?:[/:][A-Za-z:/*]+)?)=", text.strip())
    details: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        details.setdefault(name, value.strip())
    return details


def parse_time(text: str) -> float | None:
    """Slurm's notation of a time -> seconds since the epoch; None for `Unknown` and `N/A`."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None


def find_allocation() -> Allocation:
    """The allocation of the job that this process belongs to. Raises LaunchError outside of a job."""
    return parse_allocation(os.environ, os.environ.get("SHARDTUNE_SLURM_JOB", ""))
