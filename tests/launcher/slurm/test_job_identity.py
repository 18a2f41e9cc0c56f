"""A job is known by more than its number, also when it was requeued, or recorded by an earlier version."""

from dataclasses import replace
from pathlib import Path

import pytest

from shardtune.launcher.slurm.allocation import parse_time
from shardtune.launcher.slurm.job_identity import JobIdentity, default_recipe, is_by_hand, started_job, submitted_job
from shardtune.launcher.slurm.lifecycle import Start

NOON, LATER = "2026-11-24T12:00:00", "2026-11-25T09:00:00"
DETAILS = {"JobState": "RUNNING", "UserId": "ada(1000)", "SubmitTime": NOON, "Restarts": "0"}
JOB = JobIdentity("12", "lab", "ada", NOON, 0, (parse_time(NOON) or 0) + 1)
OLD = replace(JOB, cluster=None, user=None, submitted=None)


@pytest.mark.parametrize(
    ("known", "changed", "cluster", "same"),
    [
        (JOB, {}, "lab", True),
        (JOB, {"SubmitTime": LATER}, "lab", False),  # a controller that was set up anew
        (JOB, {"SubmitTime": LATER, "Restarts": "1"}, "lab", True),  # requeued
        (replace(JOB, submitted=LATER, restarts=1), {"SubmitTime": LATER, "Restarts": "1"}, "lab", True),
        (replace(JOB, restarts=1), {"SubmitTime": LATER, "Restarts": "1"}, "lab", False),
        (JOB, {}, "other", False),
        (JOB, {"UserId": "bob(1001)"}, "lab", False),
        (JOB, {}, None, True),  # Slurm does not tell
        (OLD, {}, None, True),
        (OLD, {"SubmitTime": LATER}, None, False),
        (OLD, {"SubmitTime": LATER, "Restarts": "2"}, None, True),
    ],
)
def test_a_job_is_the_recorded_one(
    known: JobIdentity, changed: dict[str, str], cluster: str | None, same: bool
) -> None:
    assert known.is_same({**DETAILS, **changed}, cluster) is same


def test_it_is_read_from_what_a_run_directory_has_recorded() -> None:
    record = {"job": 12, "cluster": "lab", "user": "ada", "submit_time": NOON, "submitted": JOB.recorded}
    assert submitted_job(record) == JOB
    assert submitted_job({"job": "12", "submitted": JOB.recorded}) == OLD
    start = Start("12", 0, "node1", JOB.recorded, None, 0, cluster="lab", user="ada", submitted=NOON)
    assert started_job(start) == JOB
    assert started_job(Start("12", 0, "node1", JOB.recorded, None, 0)) == OLD


@pytest.mark.parametrize(
    ("command", "is_mine"),
    [
        ("/x/slurm/finetune.sh /w/runs/my run", True),
        ("/x/slurm/finetune.sh runs/my run job.ranks=2", True),
        ("/x/slurm/finetune.sh ../w/./runs/my run/", True),
        ("/x/slurm/finetune.sh x.yaml optim.lr=1 --run-dir=runs/my run", True),
        ("/x/slurm/finetune.sh x.yaml --run-dir runs/my run optim.lr=1", True),
        ("/x/slurm/finetune.sh runs/my runs", False),
        ("/x/slurm/finetune.sh x.yaml --run-dir=runs/your run", False),
        ("/x/slurm/prepare.sh runs/my run", False),
        ("(null)", False),
    ],
)
def test_a_job_by_hand_names_its_run_directory(command: str, is_mine: bool) -> None:
    assert is_by_hand(command, Path("/w"), Path("/w/runs/my run")) is is_mine


def test_a_job_by_hand_without_a_run_directory_has_that_of_its_recipe() -> None:
    command = "/x/slurm/finetune.sh recipes/x.yaml optim.lr=1 train.seed=2"
    assert default_recipe(command) == ("recipes/x.yaml", ["optim.lr=1", "train.seed=2"])
    assert default_recipe(f"{command} --run-dir=r") is None and default_recipe("(null)") is None
