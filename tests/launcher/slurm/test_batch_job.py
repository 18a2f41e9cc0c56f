"""What the batch script of a job is told, given a run directory and the answers of Slurm, without a cluster."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import CheckpointError, LaunchError
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.slurm import batch_job, cluster
from shardtune.launcher.slurm.allocation import Allocation
from shardtune.launcher.slurm.batch_job import begin, end, nodes_to_exclude, read_starts, settings_of_restart
from shardtune.run_dir.bad_nodes import keep_bad_nodes
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_RESTART, EXIT_USER
from shardtune.run_dir.files import LEASE, stacks_path
from shardtune.run_dir.lease_holder import read_holder
from shardtune.run_dir.micro_batch_budget import KeptBudget, keep_budget
from shardtune.run_dir.stop_file import ask_to_stop
from tests.launcher.conftest import RECIPE

NOW = time.time()

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def allocation(folder: Path) -> Allocation:
    """Two nodes of two GPUs, whose job prints to slurm-7.out."""
    submitted = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW - 5))
    details = {"StdOut": str(folder / "slurm-7.out"), "SubmitTime": submitted, "UserId": "ada(1000)", "Restarts": "0"}
    return Allocation("7", 0, "node[1-2]", 2, Machine(2, 8, "Slurm has given"), details)


@pytest.fixture
def run_dir(folder: Path, allocation: Allocation) -> Path:
    """A run directory in which that job has begun."""
    begin(folder / "x.yaml", ["job.max_requeues=1"], allocation)
    return next((folder / "runs").iterdir())


def train(run_dir: Path, *steps: int, stopped: bool = False) -> None:
    """Writes the events of a training of these steps."""
    events: list[dict[str, Any]] = [{"event": "start", "step": steps[0] - 1}]
    events += [{"event": "step", "step": step} for step in steps]
    events += [{"event": "stopped", "step": steps[-1]}] if stopped else []
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(event | {"time": time.time()}) + "\n" for event in events)


def warn(run_dir: Path, *, ends_in_s: float, preempted: bool = False) -> None:
    """Writes what the batch script records when USR1 arrives."""
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + ends_in_s))
    text = f"JobId=7 JobState=RUNNING EndTime={ends} PreemptTime={ends if preempted else 'None'}"
    (run_dir / "logs" / "slurm-usr1.txt").write_text(text)


def test_the_batch_script_gets_its_settings_as_assignments(folder: Path, allocation: Allocation) -> None:
    hostile = folder / "a'; touch pwned #.yaml"
    hostile.write_text(RECIPE)
    settings = begin(hostile, ["job.threads_per_rank=3"], allocation).splitlines()
    assert settings[0].startswith(f"run_dir='{folder}/runs/a'\"'\"'; touch pwned #-")
    assert settings[1:4] == ["finished=0", "stopped=0", "device=cuda"]
    assert settings[4:7] == ["gpus_per_node=2", "ranks_per_node=2", "num_ranks=4"]
    assert "export OMP_NUM_THREADS=3" in settings
    holder = read_holder(next((folder / "runs").iterdir()) / LEASE)
    assert holder is not None and f"export SHARDTUNE_LEASE={holder.token}" in settings


def test_what_the_nodes_do_not_have_is_refused(folder: Path, allocation: Allocation) -> None:
    with pytest.raises(LaunchError, match=r"job\.ranks: 3 ranks need 3 GPUs, but there are 2"):
        begin(folder / "x.yaml", ["job.ranks=3"], allocation)


def test_a_stop_request_from_before_the_job_was_submitted_does_not_stop_it(
    run_dir: Path, allocation: Allocation
) -> None:
    for name in ("stop", "stop_request.json"):
        (run_dir / name).touch()
        os.utime(run_dir / name, (NOW - 60, NOW - 60))
    assert "stopped=0" in begin(run_dir, [], replace(allocation, restart=1)).splitlines()
    assert not (run_dir / "stop").exists() and not (run_dir / "stop_request.json").exists()


def test_what_an_earlier_start_asked_its_own_ranks_does_not_stop_a_later_one(
    run_dir: Path, allocation: Allocation
) -> None:
    ask_to_stop(run_dir, "a signal of Slurm", start="the first start's token")
    assert "stopped=0" in begin(run_dir, [], replace(allocation, restart=1)).splitlines()
    assert not (run_dir / "stop").exists()


@pytest.mark.parametrize("restart", [0, 1])
def test_a_user_who_asks_while_the_job_waits_stops_it_when_it_begins(
    run_dir: Path, allocation: Allocation, restart: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm sets SubmitTime anew when it requeues a job: the request is older than that."""
    (run_dir / "stop").touch()
    os.utime(run_dir / "stop", (NOW - 1, NOW - 1))
    requeued = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW + 1))
    again = replace(allocation, restart=restart, details={**allocation.details, "SubmitTime": requeued})
    again = again if restart else replace(allocation, job="8")
    (run_dir / LEASE).unlink()  # the first start has ended
    assert "stopped=1" in begin(run_dir, [], again).splitlines()
    assert end(run_dir, again, exit_code=75, signals="") == (75, False)
    assert "stopped before its first step, as requested" in capsys.readouterr().err
    assert (read_starts(run_dir)[-1].state, read_starts(run_dir)[-1].cause) == ("stopped", "stop")
    assert not (run_dir / "stop").exists()
    (run_dir / LEASE).unlink()
    assert "stopped=0" in begin(run_dir, [], replace(allocation, job="9")).splitlines()


def test_the_starts_of_an_earlier_job_of_the_same_number_do_not_count(run_dir: Path, allocation: Allocation) -> None:
    """job.max_requeues is 1, and a controller that was set up anew has given the number again."""
    train(run_dir, 1, 2, stopped=True)
    warn(run_dir, ends_in_s=300)
    assert end(run_dir, allocation, exit_code=1, signals=" USR1") == (75, True)
    new = replace(allocation, details={**allocation.details, "SubmitTime": "2099-01-01T00:00:00"})
    begin(run_dir, [], new)
    train(run_dir, 3, 4, stopped=True)
    warn(run_dir, ends_in_s=300)
    assert end(run_dir, new, exit_code=1, signals=" USR1") == (75, True)
    assert [start.state for start in read_starts(run_dir)] == ["waiting", "waiting"]


def everything_in(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_a_job_that_is_refused_has_written_nothing(
    run_dir: Path, allocation: Allocation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Job 7 lives; its stop is requested, and it has not seen that yet."""
    monkeypatch.setattr(batch_job, "OWNER_GRACE_S", 0.3)
    (run_dir / "stop").touch()
    (run_dir / "stop_request.json").write_text("{}")
    before = everything_in(run_dir)
    other = replace(allocation, job="8", details={**allocation.details, "SubmitTime": "2099-01-01T00:00:00"})
    for words in ([], ["job.max_requeues=5", "report.wandb=offline"]):
        with pytest.raises(CheckpointError, match=r"is owned by job 7, process \d+ on .*shardtune stop"):
            begin(run_dir, words, other)
    assert "waiting in case it is about to exit" in capsys.readouterr().err
    assert everything_in(run_dir) == before
    train(run_dir, 1, 2, stopped=True)
    assert end(run_dir, allocation, exit_code=1, signals="") == (75, False)


def test_the_end_of_a_start_releases_the_run_directory_and_a_failed_begin_too(
    run_dir: Path, allocation: Allocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = read_holder(run_dir / LEASE)
    assert holder is not None
    train(run_dir, 1, stopped=True)
    end(run_dir, replace(allocation, lease=holder.token), exit_code=1, signals="")
    assert not (run_dir / LEASE).exists()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch_job, "write_run_dir", full)
    with pytest.raises(OSError, match="No space left"):
        begin(run_dir, [], replace(allocation, job="8"))
    assert not (run_dir / LEASE).exists()


def test_a_start_that_has_lost_the_run_directory_records_no_end(run_dir: Path, allocation: Allocation) -> None:
    before = (run_dir / "status.json").read_text()
    assert end(run_dir, replace(allocation, lease="of before"), exit_code=1, signals="") == (75, False)
    assert (run_dir / "status.json").read_text() == before


def test_the_time_limit_requeues_a_run_that_makes_progress(run_dir: Path, allocation: Allocation) -> None:
    train(run_dir, 1, 2, stopped=True)
    warn(run_dir, ends_in_s=300)
    assert end(run_dir, allocation, exit_code=1, signals=" USR1") == (75, True)
    (start,) = read_starts(run_dir)
    assert (start.state, start.cause, start.first_step, start.last_step) == ("waiting", "time limit", 0, 2)

    second = replace(allocation, restart=1)
    begin(run_dir, [], second)
    train(run_dir, 3, 4, stopped=True)
    warn(run_dir, ends_in_s=300)
    assert end(run_dir, second, exit_code=1, signals=" USR1") == (75, False)  # job.max_requeues is 1
    assert [start.state for start in read_starts(run_dir)] == ["waiting", "stopped"]


@pytest.mark.parametrize(
    ("warning", "cause"),
    [
        ({"ends_in_s": 300, "preempted": True}, "preemption"),
        ({"ends_in_s": 5000}, "signal"),
        ({"ends_in_s": 300}, "time limit"),
    ],
)
def test_the_reason_of_a_warning_follows_from_its_time(
    run_dir: Path, allocation: Allocation, warning: dict[str, Any], cause: str
) -> None:
    train(run_dir, 1, stopped=True)
    warn(run_dir, **warning)
    assert end(run_dir, allocation, exit_code=1, signals=" USR1 TERM") == (75, True)
    assert read_starts(run_dir)[-1].cause == cause


def test_a_stop_that_a_user_requested_does_not_requeue_the_job(run_dir: Path, allocation: Allocation) -> None:
    train(run_dir, 1, stopped=True)
    warn(run_dir, ends_in_s=300)
    (run_dir / "stop_request.json").write_text("{}")
    assert end(run_dir, allocation, exit_code=1, signals=" USR1") == (75, False)
    assert read_starts(run_dir)[-1].state == "stopped"


def test_slurms_report_of_the_end_counts_only_in_the_output_of_this_start(
    run_dir: Path, allocation: Allocation
) -> None:
    output = Path(allocation.details["StdOut"])
    output.write_text("*** JOB 7 ON node1 CANCELLED AT 2026-11-24T07:30:45 DUE TO PREEMPTION ***\n")
    second = replace(allocation, restart=1)
    begin(run_dir, [], second)
    with output.open("a") as file:
        file.write("*** JOB 7 ON node1 CANCELLED AT 2026-11-24T08:30:45 ***\n")
    train(run_dir, 1)
    assert end(run_dir, second, exit_code=143, signals=" TERM") == (75, False)
    assert [start.cause for start in read_starts(run_dir)] == ["preemption", "scancel"]


def test_a_start_that_recorded_no_end_was_on_a_node_that_failed(run_dir: Path, allocation: Allocation) -> None:
    train(run_dir, 1, 2, 3)
    begin(run_dir, [], replace(allocation, restart=1))
    first, second = read_starts(run_dir)
    assert (first.state, first.cause, first.last_step) == ("waiting", "node failure", 3)
    assert (second.state, second.restart) == ("running", 1)


def test_a_start_that_was_believed_dead_leaves_the_run_alone(run_dir: Path, allocation: Allocation) -> None:
    begin(run_dir, [], replace(allocation, restart=1))
    before = (run_dir / "status.json").read_text()
    assert end(run_dir, allocation, exit_code=2, signals="") == (75, False)
    assert (run_dir / "status.json").read_text() == before


def fail(run_dir: Path, code: int) -> None:
    """Writes the record of a failed rank."""
    failure = {"rank": 3, "host": "node2", "time": time.time(), "code": code, "text": "ValueError: no"}
    (run_dir / "logs" / "rank-3.failure.json").write_text(json.dumps(failure))


@pytest.mark.parametrize(("steps", "code"), [((1, 2), EXIT_USER), ((), EXIT_BUG)], ids=["a user's", "in start-up"])
def test_a_failure_that_would_repeat_is_reported_with_the_first_rank_that_failed(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str], steps: tuple[int, ...], code: int
) -> None:
    fail(run_dir, code)
    if steps:
        train(run_dir, *steps)
    assert end(run_dir, allocation, exit_code=1, signals="") == (1, False)
    assert "rank 3 on node2 failed first:\nValueError: no" in capsys.readouterr().err
    assert (read_starts(run_dir)[-1].state, read_starts(run_dir)[-1].cause) == ("failed", "failure")


def test_a_start_that_made_progress_restarts_in_its_job_until_it_fails_at_one_step_three_times(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt, steps in enumerate([(1, 2), (1, 2, 3), (3,)]):
        fail(run_dir, EXIT_BUG)
        train(run_dir, *steps)
        assert end(run_dir, allocation, exit_code=1, signals="") == (EXIT_RESTART, False)
        message = capsys.readouterr().err
        assert f"failed at step {steps[-1]}; restarting in this job in {5 * 2**attempt} s" in message
        assert "rank 3 on node2 failed first" in message
        again = read_starts(run_dir)[-1]
        assert (again.attempt, again.state, again.nodes) == (attempt + 1, "running", "node1,node2")
    train(run_dir, 3)
    assert end(run_dir, allocation, exit_code=1, signals="") == (1, False)
    assert "failed at step 3; no restart: 3 starts in a row ended at step 3" in capsys.readouterr().err
    assert [start.state for start in read_starts(run_dir)] == ["restarting"] * 3 + ["failed"]


def test_the_batch_script_gets_the_nodes_and_the_delay_of_a_restart(run_dir: Path, allocation: Allocation) -> None:
    train(run_dir, 1, 2)
    lost = replace(allocation, details={**allocation.details, "NodeList": "node2"})
    assert end(run_dir, lost, exit_code=137, signals="") == (EXIT_RESTART, False)
    settings = settings_of_restart(read_starts(run_dir)).splitlines()
    assert settings[:3] == ["attempt=1", "delay=0", "nodes=(node2)"]
    assert [start.cause for start in read_starts(run_dir)] == ["node failure", None]

    fail(run_dir, EXIT_USER)  # what does not fit on fewer nodes may fit on all: the job waits for them
    assert end(run_dir, lost, exit_code=1, signals="") == (75, True)
    assert read_starts(run_dir)[-1].state == "waiting"


@pytest.mark.parametrize(
    ("details", "override", "message"),
    [
        ({"EndTime": 400}, "job.on_lost_node=shrink", "because too little of the time limit is left"),
        ({"NodeList": "node1"}, "job.on_lost_node=requeue", "lost node2 at step 2 (job.on_lost_node is requeue)"),
    ],
)
def test_a_job_that_cannot_go_on_where_it_is_is_requeued(
    folder: Path,
    allocation: Allocation,
    capsys: pytest.CaptureFixture[str],
    details: dict[str, Any],
    override: str,
    message: str,
) -> None:
    run_dir = begun(folder, allocation, override)
    if "EndTime" in details:
        ends = time.localtime(time.time() + details["EndTime"])
        details = {"EndTime": time.strftime("%Y-%m-%dT%H:%M:%S", ends)}
    train(run_dir, 1, 2)
    now = replace(allocation, details={**allocation.details, **details})
    assert end(run_dir, now, exit_code=1, signals="") == (75, True)
    assert message in capsys.readouterr().err


def test_a_new_checkpoint_lets_a_run_of_weeks_fail_any_number_of_times(run_dir: Path, allocation: Allocation) -> None:
    for week in range(1, 8):
        (run_dir / "checkpoints" / f"step-{10 * week}").mkdir()
        train(run_dir, 10 * week + 1)
        assert end(run_dir, allocation, exit_code=1, signals="") == (EXIT_RESTART, False)
        assert read_starts(run_dir)[-1].delay_s == 5.0
    for _ in range(2):
        train(run_dir, 71)
        end(run_dir, allocation, exit_code=1, signals="")
    assert read_starts(run_dir)[-1].state == "failed"


def test_a_stop_while_a_restart_waits_ends_the_job_as_it_would_have_during_training(
    run_dir: Path, allocation: Allocation
) -> None:
    train(run_dir, 1, 2)
    end(run_dir, allocation, exit_code=1, signals="")
    warn(run_dir, ends_in_s=300)
    assert end(run_dir, allocation, exit_code=75, signals=" USR1") == (75, True)  # it has stepped in this job
    assert [(start.state, start.cause) for start in read_starts(run_dir)] == [
        ("restarting", "failure"), ("waiting", "time limit"),
    ]  # fmt: skip


def test_a_time_limit_before_the_first_step_requeues_nothing(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    warn(run_dir, ends_in_s=100)
    assert end(run_dir, allocation, exit_code=75, signals=" USR1") == (75, False)
    assert "without a single step; raise job.time_limit (sbatch --time)" in capsys.readouterr().err


def test_a_warning_that_came_before_the_run_directory_was_known_is_judged_by_slurms_answer(
    run_dir: Path, allocation: Allocation
) -> None:
    ends = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 60))
    now = replace(allocation, details={**allocation.details, "EndTime": ends})
    assert end(run_dir, now, exit_code=75, signals=" USR1", is_preparation=True) == (75, False)
    assert (read_starts(run_dir)[-1].state, read_starts(run_dir)[-1].cause) == ("stopped", "time limit")


TERM = "stopped by SIGTERM before there was anything to save; run it again to resume"
KILLED_RANK = """\
  host      : node2
  rank      : 3 (local_rank: 1)
  exitcode  : -9 (pid: 39)
srun: error: node2: task 1: Exited with exit code 1
"""


def begun(folder: Path, allocation: Allocation, *overrides: str) -> Path:
    """The run directory of a job that has begun and printed nothing yet."""
    Path(allocation.details["StdOut"]).touch()
    begin(folder / "x.yaml", overrides, allocation)
    return next((folder / "runs").iterdir())


def ended_by_srun(run_dir: Path) -> None:
    """Writes the record of rank 0, which srun has sent SIGTERM in its start-up."""
    record = {"rank": 0, "host": "node1", "time": time.time(), "code": 75, "text": TERM}
    (run_dir / "logs" / "rank-0.failure.json").write_text(json.dumps(record))


def test_a_rank_killed_in_start_up_is_blamed_and_not_the_one_that_srun_ended(
    folder: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun(folder, allocation, "train.micro_batch_tokens=4096")
    ended_by_srun(run_dir)
    Path(allocation.details["StdOut"]).write_text(KILLED_RANK)
    assert end(run_dir, allocation, exit_code=1, signals="") == (EXIT_RESTART, False)
    message = capsys.readouterr().err
    assert "failed before its first step; restarting in this job in 5 s (restart 1)" in message
    assert "rank 3 on node2 was killed by signal 9 (Killed); if dmesg says that memory ran out, lower" in message


def test_a_start_up_that_ends_on_another_node_names_it_and_is_not_repeated(
    folder: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun(folder, allocation)
    ended_by_srun(run_dir)
    output = "shardtune: /r: not a run directory\nsrun: error: node2: task 1: Exited with exit code 1\n"
    Path(allocation.details["StdOut"]).write_text(output)
    assert end(run_dir, allocation, exit_code=1, signals="") == (1, False)
    message = capsys.readouterr().err
    assert "node2 failed first (exited with exit code 1), before a rank recorded anything" in message
    assert "not a run directory" in message
    assert read_starts(run_dir)[-1].state == "failed"


def test_a_rank_that_ends_without_a_record_is_shown_with_what_it_printed(
    folder: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = begun(folder, allocation)
    log = run_dir / "logs" / "rank-3.log"
    log.write_text("an earlier start's\n")
    os.utime(log, (NOW - 60, NOW - 60))
    output = "/r: not a run directory\nE1 failed (exitcode: 2) local_rank: 1\n" + KILLED_RANK.replace("-9", "2")
    Path(allocation.details["StdOut"]).write_text(output)
    assert end(run_dir, allocation, exit_code=1, signals="") == (1, False)
    said = "rank 3 on node2 failed first: exit code 2, without a record; the end of"
    assert f"{said} the output:\n/r: not a run directory\nshardtune: logs" in capsys.readouterr().err


def test_a_hang_restarts_the_ranks_also_before_its_first_step_and_names_the_stack_traces(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    stacks_path(run_dir, 1).write_text("Timeout!")
    assert end(run_dir, allocation, exit_code=1, signals="") == (EXIT_RESTART, False)
    message = capsys.readouterr().err
    assert "hung before its first step; restarting in this job in 5 s (restart 1)" in message
    assert f"stack traces of a rank: {stacks_path(run_dir, 1)}" in message
    assert read_starts(run_dir)[0].cause == "hang"


def test_a_start_that_leaves_the_next_one_a_smaller_budget_is_followed_at_once(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    keep_budget(run_dir, KeptBudget(512, fits=False, too_many=1024))
    for _ in range(2):  # a restart that is short of memory again has not failed where it was
        fail(run_dir, EXIT_RESTART)
        assert end(run_dir, allocation, exit_code=1, signals="") == (EXIT_RESTART, False)
        assert "train.micro_batch_tokens: auto is 512 (memory ran out with 1024)" in capsys.readouterr().err
        assert read_starts(run_dir)[-1].delay_s == 0
    assert [start.cause for start in read_starts(run_dir)] == ["memory", "memory", None]


def with_cluster(monkeypatch: pytest.MonkeyPatch, *nodes: str) -> None:
    """Lets sinfo name these nodes as those that can be used."""
    monkeypatch.setattr(cluster, "usable_nodes", lambda partition: set(nodes))


def test_a_start_that_finds_a_bad_node_is_requeued_without_it(
    folder: Path, allocation: Allocation, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_cluster(monkeypatch, "node1", "node2", "node3", "node7")
    allocation = replace(allocation, details={**allocation.details, "ExcNodeList": "node[7-8]"})
    begin(folder / "x.yaml", ["job.max_requeues=1", "job.exclude_bad_nodes=true"], allocation)
    run_dir = next((folder / "runs").iterdir())
    keep_bad_nodes(run_dir, {"node2": "slow"}, job="7")
    assert end(run_dir, allocation, exit_code=1, signals="") == (75, True)
    assert "node2 is slow; requeued without node2" in capsys.readouterr().err
    assert (read_starts(run_dir)[-1].state, read_starts(run_dir)[-1].cause) == ("waiting", "bad node")
    assert nodes_to_exclude(run_dir, allocation) == "node7,node8,node2"

    with_cluster(monkeypatch, "node1", "node2", "node7")  # node7 is excluded already, so that node2 has to be used
    assert nodes_to_exclude(run_dir, allocation) == ""


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", "bad node"),
        ("RuntimeError: CUDA error: an illegal memory access was encountered", "failure"),
    ],
)
def test_a_rank_that_fails_because_of_its_gpu_makes_the_job_exclude_its_node(
    folder: Path, allocation: Allocation, monkeypatch: pytest.MonkeyPatch, text: str, cause: str
) -> None:
    with_cluster(monkeypatch, "node1", "node2", "node3")
    begin(folder / "x.yaml", ["job.exclude_bad_nodes=true", "faults.max_restarts=0"], allocation)
    run_dir = next((folder / "runs").iterdir())
    failure = {"rank": 3, "host": "node2.cluster", "time": time.time(), "code": 1, "text": text}
    (run_dir / "logs" / "rank-3.failure.json").write_text(json.dumps(failure))
    train(run_dir, 1)
    assert end(run_dir, allocation, exit_code=1, signals="")[1] == (cause == "bad node")
    assert read_starts(run_dir)[-1].cause == cause
    assert nodes_to_exclude(run_dir, allocation) == ("node2" if cause == "bad node" else "")


@pytest.mark.parametrize(
    ("override", "cause"),
    [("job.exclude_bad_nodes=true", "bad node"), ("job.exclude_bad_nodes=false", "failure")],
)
def test_a_node_on_which_no_rank_could_start_is_excluded_if_that_is_requested(
    folder: Path, allocation: Allocation, monkeypatch: pytest.MonkeyPatch, override: str, cause: str
) -> None:
    with_cluster(monkeypatch, "node1", "node2", "node3")
    output = Path(allocation.details["StdOut"])
    output.write_text("shardtune: node1 is unfit: that was an earlier start\n")
    begin(folder / "x.yaml", [override], allocation)
    with output.open("a") as file:
        file.write("shardtune: node2 is unfit: it has 1 of the job's GPUs, the first node 2\n")
    run_dir = next((folder / "runs").iterdir())
    assert end(run_dir, allocation, exit_code=2, signals="") == ((75, True) if cause == "bad node" else (2, False))
    assert read_starts(run_dir)[-1].cause == cause
    assert nodes_to_exclude(run_dir, allocation) == ("node2" if cause == "bad node" else "")


def test_a_finished_run_says_so_and_has_a_page(
    run_dir: Path, allocation: Allocation, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / "metrics.jsonl").touch()
    (run_dir / "results.json").write_text("{}")
    assert end(run_dir, allocation, exit_code=0, signals="") == (0, False)
    assert "the run is finished" in capsys.readouterr().err
    assert (run_dir / "report.html").is_file()
    (run_dir / LEASE).unlink()
    assert "finished=1" in begin(run_dir, [], replace(allocation, job="8")).splitlines()
