"""Devices are found without torch, and ranks are restarted as often as it helps."""

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.launcher.plan.job import Machine, plan_job
from shardtune.launcher.start import execute
from shardtune.launcher.start.execute import _start_until_done, find_machine, run_job
from shardtune.machine import nvidia_smi as asking
from shardtune.run_dir.exit_codes import EXIT_BUG, EXIT_OK
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease import LEASE_TOKEN, take_lease
from shardtune.run_dir.lease_holder import render_holder, this_process
from shardtune.run_dir.run import write_run_dir
from tests.support.fake_nvidia_smi import install_nvidia_smi


@pytest.fixture
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An nvidia-smi that lists four GPUs."""
    lines = (f"echo 'GPU {number}: NVIDIA A100-SXM4-80GB (UUID: GPU-{number})'" for number in range(4))
    install_nvidia_smi(tmp_path, "\n".join(lines), monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("four_gpus")
def test_nvidia_smi_says_how_many_gpus_there_are() -> None:
    assert find_machine().num_gpus == 4


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize(("visible", "num_gpus"), [("0,2", 2), ("GPU-1", 1), ("", 0), ("-1", 0), ("1,-1,2", 1)])
def test_cuda_visible_devices_narrows_them(monkeypatch: pytest.MonkeyPatch, visible: str, num_gpus: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_machine().num_gpus == num_gpus


def test_a_machine_without_nvidia_smi_or_with_a_broken_one_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_machine().num_gpus == 0
    install_nvidia_smi(tmp_path, "echo 'NVIDIA-SMI has failed' >&2; exit 9", monkeypatch)
    machine = find_machine()
    assert (machine.num_gpus, machine.fault) == (0, None)
    (notice,) = machine.notices
    assert notice.startswith("nvidia-smi fails on ") and notice.endswith("(exit code 9: NVIDIA-SMI has failed)")


def test_one_that_hangs_is_not_a_machine_without_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.2)
    install_nvidia_smi(tmp_path, "exec sleep 60", monkeypatch)
    fault = find_machine().fault
    assert fault is not None and fault.startswith("nvidia-smi does not answer within 0.2 s on ")


def test_mig_instances_are_counted_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = 'echo "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-0)"'
    instances = "; ".join(f'echo "  MIG 1g.5gb      Device  {n}: (UUID: MIG-{n})"' for n in range(3))
    install_nvidia_smi(tmp_path, f"{gpu}; {instances}", monkeypatch)
    machine = find_machine()
    assert (machine.num_gpus, machine.gpus) == (3, ("MIG-0", "MIG-1", "MIG-2"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-2,MIG-0")
    assert find_machine().gpus == ("MIG-2", "MIG-0")


SHORT_OF_MEMORY = """
import json, os, sys, time
from pathlib import Path
from shardtune.run_dir.micro_batch_budget import KeptBudget, keep_budget, read_budget
from shardtune.run_dir.exit_codes import EXIT_RESTART
from shardtune.run_dir.files import RESULTS, failure_path
run_dir, least = Path(sys.argv[1]), int(sys.argv[2])
before = read_budget(run_dir)
tokens = before.tokens // 2 if before else 64
with (run_dir / "starts").open("a") as file:
    file.write(f"{tokens}\\n")
if tokens <= 8:
    (run_dir / RESULTS).write_text("{}")
    sys.exit(0)
keep_budget(run_dir, KeptBudget(max(tokens, least), False, 2 * tokens))
failure = {"rank": 1, "host": "here", "time": time.time(), "code": EXIT_RESTART, "text": "rank 1 is short of memory"}
failure_path(run_dir, 1).write_text(json.dumps(failure))
sys.exit(EXIT_RESTART)
"""
"""Stand-in for ranks that are short of memory until the budget is 8 tokens; they never keep less than `least`."""


@pytest.mark.parametrize(
    ("least", "code", "starts"), [(0, EXIT_OK, ["64", "32", "16", "8"]), (64, EXIT_BUG, ["64", "32"])]
)
def test_ranks_that_were_short_of_memory_are_restarted_at_once_as_long_as_their_budget_falls(
    folder: Path, capsys: pytest.CaptureFixture[str], least: int, code: int, starts: list[str]
) -> None:
    plan = plan_job(Path("x.yaml"), ["faults.max_restarts=0"], folder / "r", Machine(0, 2))
    write_run_dir(plan.run)
    (folder / "r" / "metrics.jsonl").touch()
    argv = (sys.executable, "-c", SHORT_OF_MEMORY, str(folder / "r"), str(least))
    lease = take_lease(folder / "r" / LEASE)
    environment = {"PYTHONPATH": str(Path(__file__).parents[3]), LEASE_TOKEN: lease.token}
    assert _start_until_done(replace(plan, argv=argv, environment=environment), []) == code
    lease.close()
    assert (folder / "r" / "starts").read_text().split() == starts
    stderr = capsys.readouterr().err
    assert "train.micro_batch_tokens: auto is 64 (memory ran out with 128); restarting now\n" in stderr
    assert stderr.count("restarting now") == len(starts) - 1
    assert ("rank 1 on here failed" in stderr) == (code == EXIT_BUG)


def test_a_launcher_that_is_refused_has_written_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "OWNER_GRACE_S", 0.2)
    run_dir = folder / "r"
    write_run_dir(plan_job(Path("x.yaml"), [], run_dir, Machine(0, 2)).run)
    (run_dir / "stop").touch()
    lease = take_lease(run_dir / LEASE)
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    for words in ([], ["job.threads_per_rank=3"]):
        with pytest.raises(CheckpointError, match="is owned by process"):
            run_job(plan_job(run_dir, words, None, Machine(0, 2)))
    assert {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()} == before
    lease.close()


def test_a_launcher_that_was_believed_dead_says_that_another_start_went_on(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = folder / "r"
    plan = plan_job(Path("x.yaml"), [], run_dir, Machine(0, 2))
    write_run_dir(plan.run)
    lease = take_lease(run_dir / LEASE)
    text = render_holder(this_process(job="8", token="another"))
    words = f"import sys; open({str(run_dir / LEASE)!r}, 'w').write({text!r}); sys.exit(1)"
    plan = replace(plan, argv=(sys.executable, "-c", words), environment={LEASE_TOKEN: lease.token})
    with pytest.raises(TakenOverError, match=r"another start, job 8, .* took over this run directory"):
        _start_until_done(plan, [])
    assert "restarting" not in capsys.readouterr().err
    lease.close()


def test_the_cores_are_those_that_this_process_may_use() -> None:
    assert find_machine().num_cores == len(os.sched_getaffinity(0))


def test_a_program_in_the_foreground_ends_with_its_parent() -> None:
    module = ["timeit", ["-n1", "-r1", "import time; time.sleep(100)"]]
    program = f"from shardtune.launcher.start.execute import run_module; run_module(*{module!r})"
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    until = time.monotonic() + 60
    while not (child := children.read_text().split()) and time.monotonic() < until:
        time.sleep(0.01)
    cmdline = Path(f"/proc/{child[0]}/cmdline")
    while b"timeit" not in cmdline.read_bytes().split(b"\0") and time.monotonic() < until:
        time.sleep(0.01)  # it is still the fork of its parent
    parent.terminate()
    parent.wait(60)
    while cmdline.exists() and cmdline.read_bytes() and time.monotonic() < until:
        time.sleep(0.01)
    assert not cmdline.exists() or not cmdline.read_bytes()
