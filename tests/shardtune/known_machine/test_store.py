"""What is known of a machine is kept in the user's state folder; what is damaged there is said, and ignored."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shardtune.known_machine.fingerprint import Identity, identify
from shardtune.known_machine.store import MOST_RUNS, keep_calibration, learn_from, read_known
from shardtune.planner.measured.corrections import Subject
from shardtune.run_dir.files import METRICS
from shardtune.run_dir.view.plan_file import write_plan
from tests.support.calibrations import calibration

MACHINE = Identity("AMD EPYC", 2, "abc", "", "2.13.0")
SUBJECT = Subject("model", "zero2", "fp32", "cpu", 2, 1000.0)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state/shardtune/machines"


def test_a_calibration_is_read_back() -> None:
    assert read_known(MACHINE).calibration is None and read_known(MACHINE).notice is None
    kept = calibration(MACHINE.fingerprint)
    keep_calibration(MACHINE, kept)
    assert read_known(MACHINE).calibration == kept


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a calibration"),
        (json.dumps(calibration("other").as_json()), "it is of another machine"),
        (json.dumps(calibration().as_json() | {"format": 0}), "it has format 0"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(text: str, reason: str) -> None:
    path = keep_calibration(MACHINE, calibration(MACHINE.fingerprint))
    path.write_text(text, encoding="utf-8")
    known = read_known(MACHINE)
    assert known.calibration is None and known.notice is not None
    assert reason in known.notice and str(path) in known.notice and "plan --calibrate" in known.notice
    assert "\n" not in known.notice


def test_the_calibration_of_another_torch_is_named_and_not_used() -> None:
    keep_calibration(MACHINE, calibration(MACHINE.fingerprint))
    known = read_known(replace(MACHINE, torch="2.14.0"))
    assert known.calibration is None and known.notice is not None and "torch 2.13.0" in known.notice
    assert read_known(replace(MACHINE, cpu="Intel Xeon")).notice is None


def finished_run(folder: Path, *, step_s: float, machine: str = MACHINE.fingerprint) -> Path:
    folder.mkdir(parents=True)
    write_plan(folder, {"machine": machine, "subject": asdict(SUBJECT), "step_s": 1.0, "memory_bytes": 10**9})
    events = [
        {"event": "start", "time": 1.0},
        *({"event": "step", "time": 2.0, "step_time_s": step_s, "memory_bytes": 2 * 10**9},) * 3,
    ]
    (folder / METRICS).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return folder


def test_a_run_that_has_ended_is_known_to_later_plans_of_its_machine(tmp_path: Path) -> None:
    learn_from(finished_run(tmp_path / "run", step_s=1.2))
    (run,) = read_known(MACHINE).runs
    assert (run.subject, run.step, run.memory) == (SUBJECT, 1.2, 2.0)
    assert not read_known(replace(MACHINE, cores=4)).runs


def test_a_run_is_learned_from_once_and_few_are_kept(tmp_path: Path, state: Path) -> None:
    run = finished_run(tmp_path / "run", step_s=1.2)
    learn_from(run)
    learn_from(run)
    assert len(read_known(MACHINE).runs) == 1
    path = state / MACHINE.fingerprint / "runs.jsonl"
    line = json.loads(path.read_text(encoding="utf-8"))
    many = "".join(json.dumps(line | {"run_dir": f"/{number}"}) + "\n" for number in range(MOST_RUNS + 50))
    path.write_text(many, encoding="utf-8")
    learn_from(run)
    assert len(read_known(MACHINE).runs) == MOST_RUNS


def test_damaged_lines_are_left_out(tmp_path: Path, state: Path) -> None:
    learn_from(finished_run(tmp_path / "run", step_s=1.2))
    path = state / MACHINE.fingerprint / "runs.jsonl"
    path.write_text("nonsense\n[]\n{}\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert len(read_known(MACHINE).runs) == 1
    learn_from(finished_run(tmp_path / "other", step_s=1.3))
    assert [run.step for run in read_known(MACHINE).runs] == [1.2, 1.3]


@pytest.mark.parametrize("machine", ["", "../../elsewhere"])
def test_a_plan_that_names_no_machine_teaches_nothing(tmp_path: Path, state: Path, machine: str) -> None:
    learn_from(finished_run(tmp_path / "run", step_s=1.2, machine=machine))
    assert not state.exists()


def test_a_machine_is_told_by_its_processors_gpus_and_torch(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: AMD EPYC\nflags\t\t: avx2 fma\n", encoding="utf-8")
    found = identify("2 x NVIDIA H100", root=tmp_path)
    assert found.cpu == "AMD EPYC" and found.gpus == "2 x NVIDIA H100" and found.torch.startswith("2.")
    (tmp_path / "proc/cpuinfo").write_text("model name\t: AMD EPYC\nflags\t\t: fma avx2 avx512f\n", encoding="utf-8")
    assert identify("2 x NVIDIA H100", root=tmp_path).fingerprint != found.fingerprint
    assert identify(root=tmp_path / "none").cpu == "unknown processor"
