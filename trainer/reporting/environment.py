"""The `environment` event: with what, where and from which code a start trains."""

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shardtune.machine.repository import repository_of
from shardtune.redaction import redact

PACKAGES = ("shardtune", "torch", "transformers", "deepspeed", "peft", "numpy", "wandb")
SLURM = {
    "SLURM_JOB_ID": "job",
    "SLURM_ARRAY_JOB_ID": "array_job",
    "SLURM_ARRAY_TASK_ID": "array_task",
    "SLURM_RESTART_COUNT": "restart",
    "SLURM_JOB_PARTITION": "partition",
    "SLURM_JOB_ACCOUNT": "account",
    "SLURM_JOB_QOS": "qos",
    "SLURM_JOB_NUM_NODES": "nodes",
    "SLURM_CLUSTER_NAME": "cluster",
}
"""Variable of a Slurm job -> its name in the event."""


def environment_of(
    devices: Sequence[tuple[str, str]], environment: Mapping[str, str] = os.environ, folder: Path | None = None
) -> dict[str, Any]:
    """The values of the event: versions, hosts, GPUs, git and Slurm ids; `devices` has each rank's (host, device).

    git is the state of the repository around `folder`, the working directory if it is None.
    """
    found: dict[str, Any] = {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": platform.platform(),
        "hosts": sorted({host for host, _ in devices}),
        "devices": {name: [device for _, device in devices].count(name) for name in sorted({d for _, d in devices})},
    }
    if (repository := repository_of(folder or Path.cwd())) is not None:
        found["git"] = {
            "commit": repository.commit,
            "dirty": repository.is_dirty,
            "remote": None if repository.remote is None else redact(repository.remote),
        }
    if slurm := {name: environment[variable] for variable, name in SLURM.items() if environment.get(variable)}:
        found["slurm"] = slurm
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
