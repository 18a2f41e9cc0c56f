"""Slurm is asked once for all runs, and about each job that has left the queue once."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shardtune.errors import LaunchError
from shardtune.launcher.dashboard.slurm_view import NotAnsweredError, SlurmView
from shardtune.launcher.slurm.job_identity import JobIdentity
from tests.launcher.dashboard.conftest import BEGIN, START, Browser, eventually, steps, write_run


def program(path: Path, body: str) -> Path:
    """A program that also writes a line for each call of it; returns the file with these lines."""
    calls = path.with_suffix(".calls")
    path.write_text(f"#!/bin/bash\necho $* >>{calls}\n{body}\n")
    path.chmod(0o755)
    return calls


def num_calls(calls: Path) -> int:
    return len(calls.read_text().splitlines()) if calls.exists() else 0


def line(run_dir: Path, number: int, state: str = "RUNNING") -> str:
    return f"echo '{number}|{number}|{state}|None|node1|1|0:10|42:00|N/A|main|{run_dir}'\n"


def test_the_queue_is_asked_once_for_all_runs(
    tmp_path: Path, no_slurm: Path, open_dashboard: Callable[[Path], Browser]
) -> None:
    runs = [write_run(tmp_path / f"run-{number:02}", [BEGIN, START, *steps(3)]) for number in range(20)]
    for number, run in enumerate(runs[:10]):
        (run / "submission.json").write_text(json.dumps({"job": str(100 + number), "submitted": 1.0}))
    queue = program(no_slurm / "squeue", "".join(line(run, 100 + number) for number, run in enumerate(runs[:10])))
    details = program(no_slurm / "scontrol", "exit 1")
    browser = open_dashboard(tmp_path)
    assert eventually(lambda: [run["state"] for run in browser.runs().values()] == ["running"] * 10 + ["crashed"] * 10)
    assert "42:00 of the time limit left" in browser.runs()["run-00"]["why"]
    until = time.monotonic() + 2
    while time.monotonic() < until:
        browser.get("/api/runs")
    assert (num_calls(queue), num_calls(details)) == (1, 0)


def test_a_job_that_has_left_the_queue_is_asked_about_once(no_slurm: Path) -> None:
    identity = JobIdentity("7", None, None, None, 0, 0.0)
    calls = program(no_slurm / "scontrol", "echo 'JobId=7 JobState=TIMEOUT Reason=None'")
    view = SlurmView()
    for _ in range(3):
        with pytest.raises(NotAnsweredError):
            view.last_word("7", identity)
    view.ask_for_words()
    assert [view.last_word("7", identity) for _ in range(3)] == ["TIMEOUT"] * 3
    view.ask_for_words()
    assert num_calls(calls) == 1


def test_what_slurm_told_last_is_kept_while_it_does_not_answer(tmp_path: Path, no_slurm: Path) -> None:
    run_dir = write_run(tmp_path / "a", [])
    view = SlurmView()
    with pytest.raises(NotAnsweredError):
        view.job_of(run_dir)
    program(no_slurm / "squeue", line(run_dir, 7, "PENDING"))
    view.ask()
    assert view.folders == [run_dir]
    program(no_slurm / "squeue", "exit 1")
    with pytest.raises(LaunchError, match="Slurm does not answer"):
        view.ask()
    job = view.job_of(run_dir)
    assert job is not None and (job.name, job.state) == ("7", "PENDING")
