"""What is told to a run, and about it, without Slurm; and how a Slurm that does not answer is treated."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import CheckpointError, LaunchError
from shardtune.launcher.commands import slurm as commands
from shardtune.launcher.registry import remember
from shardtune.launcher.runs import monitor
from shardtune.launcher.runs.logs import print_log
from shardtune.launcher.slurm import cluster
from shardtune.launcher.slurm.lifecycle import Start, render_status
from shardtune.run_dir.files import CONFIG
from shardtune.run_dir.lease import take_lease
from shardtune.run_dir.lease_holder import render_holder, this_process
from tests.launcher.runs.test_status import JOB


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for programs of a test, which is the whole PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.chdir(tmp_path)
    return programs


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    run_dir = tmp_path / "runs" / "a-1"
    (run_dir / "logs").mkdir(parents=True)
    (run_dir / "config.yaml").write_text("")
    return run_dir


START = Start(job="7", restart=0, nodes="node1", began=1.0, output=None, output_bytes=0)


def test_a_folder_that_is_no_run_has_no_state(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run directory"):
        monitor.look_at(tmp_path)


def test_the_runs_of_a_folder_are_known(run_dir: Path) -> None:
    (run,) = monitor.known_runs()
    assert (run.run_dir, run.state) == (str(run_dir), "new")


def test_a_run_without_a_scheduler_is_stopped_by_its_stop_file(run_dir: Path) -> None:
    with pytest.raises(LaunchError, match="is not being trained: new"):
        monitor.stop(run_dir, now=False)
    (run_dir / "lease.json").touch()
    with pytest.raises(LaunchError, match="no Slurm job is training it"):
        monitor.stop(run_dir, now=True)
    assert "will save a checkpoint after the current step" in monitor.stop(run_dir, now=False)
    assert (run_dir / "stop").exists() and "by" in json.loads((run_dir / "stop_request.json").read_text())


def test_a_run_stands_in_the_table_once_by_whatever_path_it_was_given(run_dir: Path) -> None:
    link = run_dir.parent.parent / "link"
    link.symlink_to(run_dir.parent)
    remember(run_dir.parent / ".." / "runs" / run_dir.name, link / run_dir.name)
    (run,) = monitor.known_runs()
    assert run.run_dir in (str(run_dir), str(link / run_dir.name))
    assert monitor.look_at(Path("runs/../runs") / run_dir.name).run_dir == str(run_dir)


def test_the_status_of_a_sweep_is_that_of_its_points(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = run_dir.parent / "sweep"
    for number in "01":
        (sweep / number).mkdir(parents=True)
        (sweep / number / "config.yaml").write_text("")
    (sweep / "sweep.json").write_text(json.dumps({"recipe": "x.yaml", "points": [{"number": n} for n in (0, 1, 2)]}))
    assert commands.status(str(sweep)).perform() == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["sweep/0", "new"], ["sweep/1", "new"]]
    assert last == f"metrics and curves: shardtune report {sweep}"


def test_a_task_of_a_job_array_is_the_job_of_the_point_with_its_number(run_dir: Path) -> None:
    several = run_dir.parent / "several"
    tasks = [replace(JOB, name=f"12_{task}", comment=str(several)) for task in (7, 1)]
    for name, job in (("7", "12_7"), ("seed-1", "12_1"), ("part-7", "12_7"), ("seed-2", None), ("best-1", None)):
        found = cluster.job_of(several / name, tasks)
        assert (found.name if found else None) == job


def test_a_job_that_stop_has_cancelled_is_stopped_as_asked_until_the_run_begins_again(run_dir: Path) -> None:
    (run_dir / "submission.json").write_text(json.dumps({"job": "7", "submitted": 1.0}))
    assert monitor.look_at(run_dir).state == "lost"
    (run_dir / "stop_request.json").write_text(json.dumps({"by": "ada", "time": 2.0, "cancelled": "7"}))
    assert (monitor.look_at(run_dir).state, monitor.look_at(run_dir).why) == ("stopped", "cancelled as ada asked")
    (run_dir / "status.json").write_text(render_status([replace(START, began=3.0)]))
    assert monitor.look_at(run_dir).state == "lost"


def test_a_lease_that_nobody_has_touched_for_long_is_no_sign_of_life(run_dir: Path) -> None:
    (run_dir / "lease.json").touch()
    os.utime(run_dir / "lease.json", (time.time() - 100, time.time() - 100))
    assert monitor.look_at(run_dir).state == "new"


def test_a_lease_of_a_process_that_has_ended_is_no_sign_of_life(run_dir: Path) -> None:
    lease = take_lease(run_dir / "lease.json")
    assert monitor.look_at(run_dir).state == "running"
    lease.leave()
    holder = this_process(job=None, token=lease.token)
    (run_dir / "lease.json").write_text(render_holder(replace(holder, born=1)))
    assert monitor.look_at(run_dir).state == "new"


def test_only_what_was_submitted_and_is_not_finished_is_put_back(run_dir: Path) -> None:
    with pytest.raises(LaunchError, match=r"has no job script \(job.sbatch\)"):
        monitor.requeue(run_dir)
    (run_dir / "results.json").write_text("{}")
    with pytest.raises(LaunchError, match="is already finished"):
        monitor.requeue(run_dir)


def test_the_newest_output_is_printed_or_a_ranks_log(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LaunchError, match=r"no output yet"):
        print_log(run_dir, None, follow=False)
    for name in ("first.out", "second.out", "rank-3.log"):
        (run_dir / "logs" / name).write_text(f"this is {name}\n")
    starts = [replace(START, output=str(run_dir / "logs" / name)) for name in ("first.out", "second.out")]
    (run_dir / "status.json").write_text(render_status(starts))
    print_log(run_dir, None, follow=False)
    print_log(run_dir, "3", follow=True)
    assert capsys.readouterr().out == "this is second.out\nthis is rank-3.log\n"
    with pytest.raises(LaunchError, match=r"rank-4\.log does not exist"):
        print_log(run_dir, "4", follow=False)


STARTED = {
    "event": "start", "step": 0, "num_steps": 40, "num_rows": 67, "num_parameters": 1000, "world_size": 2,
    "device": "cpu", "zero_stage": 2, "precision": "bf16", "time": 1000.0,
}  # fmt: skip
STEP = {"event": "step", "step": 10, "loss": 1.0, "lr": 1e-3, "tokens_per_s": 9.0, "eta_s": 60.0, "time": 1001.0}


def test_without_a_job_the_log_is_what_happened_and_why_it_failed(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "metrics.jsonl").write_text(f"{json.dumps(STARTED)}\n{json.dumps(STEP)}\n")
    (run_dir / "logs" / "launcher.log").touch()
    print_log(run_dir, None, follow=False)
    first, second = capsys.readouterr().out.splitlines()
    assert "  training for 40 steps: 67 rows, 1,000 parameters, 2 ranks on cpu" in first
    assert second.endswith("  step 10  loss 1.0000  lr 1.00e-03  9 tokens/s  1:00 left")
    failure = {"rank": 1, "host": "vm", "time": 1002.0, "code": 1, "text": "KeyError: 3\n"}
    (run_dir / "logs" / "rank-1.failure.json").write_text(json.dumps(failure))
    print_log(run_dir, None, follow=True)
    assert capsys.readouterr().out.endswith("\nrank 1 on vm failed:\nKeyError: 3\n")
    (run_dir / "logs" / "rank-1.failure.json").unlink()
    (run_dir / "logs" / "launcher.log").write_text("torchrun: error\n")
    print_log(run_dir, None, follow=False)
    assert capsys.readouterr().out.endswith(" left\ntorchrun: error\n")


def test_the_log_of_a_folder_that_is_no_run_is_refused_by_that_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere: not a run directory \(no config.yaml\)"):
        print_log(tmp_path / "nowhere", None, follow=False)


def test_watch_joins_a_run_where_it_is(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "metrics.jsonl").write_text(f"{json.dumps(STARTED)}\n{json.dumps(STEP)}\n")
    (run_dir / "lease.json").touch()
    monkeypatch.setattr(monitor.time, "sleep", lambda _: os.utime(run_dir / "lease.json", (1, 1)))
    monitor.watch(run_dir)
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("training for 40 steps: ") and shown[1].startswith("step 10/40  loss 1.0000")


@pytest.mark.parametrize(
    ("start", "results", "code", "message"),
    [
        (replace(START, state="finished", cause="finished"), True, 0, "finished"),
        (replace(START, state="stopped", cause="scancel"), False, 75, "stopped (scancel)"),
        (replace(START, state="failed", cause="failure"), False, 1, "failed (failure)"),
        (START, False, 1, "lost (job 7 left the queue (Slurm no longer knows why))"),
    ],
)
def test_watch_returns_the_exit_code_of_the_run(
    run_dir: Path, start: Start, results: bool, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "status.json").write_text(render_status([start]))
    if results:
        (run_dir / "results.json").write_text("{}")
    assert monitor.watch(run_dir) == code
    assert capsys.readouterr().out == f"{run_dir.relative_to(Path.cwd())}: {message}\n"


def program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def test_a_slurm_that_does_not_answer_is_not_a_slurm_without_jobs(
    no_slurm: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(no_slurm / "squeue", "echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(LaunchError, match=r"Slurm does not answer; try again later .*Unable to contact"):
        cluster.queued_jobs()

    # `watch` is patient.
    (run_dir / "status.json").write_text(render_status([replace(START, state="stopped", cause="scancel")]))
    monkeypatch.setattr(monitor.time, "sleep", lambda _: program(no_slurm / "squeue", "exit 0"))
    assert monitor.watch(run_dir) == 75
    assert "Slurm does not answer" in capsys.readouterr().err


def test_tools_without_a_cluster_are_not_slurm(no_slurm: Path) -> None:
    assert (cluster.queued_jobs(), cluster.find_nodes()) == ([], None)
    for name in ("squeue", "sinfo"):
        program(no_slurm / name, "echo 'fatal: Could not establish a configuration source' >&2; exit 1")
    assert (cluster.queued_jobs(), cluster.find_nodes()) == ([], None)


def test_a_run_whose_directory_vanishes_while_it_is_looked_at_is_not_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / CONFIG).write_text("", encoding="utf-8")
    looked_at = monitor.outer_events

    def removed_meanwhile(run_dir: Path, num_bytes: int) -> list[dict[str, Any]]:
        if run_dir.name == "a":
            shutil.rmtree(run_dir)
            raise FileNotFoundError(run_dir)
        return looked_at(run_dir, num_bytes)

    monkeypatch.setattr(monitor, "known", list)
    monkeypatch.setattr(monitor, "outer_events", removed_meanwhile)
    assert [Path(status.run_dir).name for status in monitor.known_runs()] == ["b"]
