"""The check of a GPU machine, at its smallest and on a CPU: the parts that a GPU runs are those that run here."""

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import __main__ as check
from benchmarks.gpu.bench import Bench, Outcome, Part
from benchmarks.gpu.losses import REFERENCE, task_recipe
from benchmarks.gpu.workers import JobFailed, OutOfTime, Worker

pytestmark = pytest.mark.timeout(1800)
NAMES = [part.name for part in check.PARTS]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Exit code, output and JSON of a check whose first part fails: the data that it names do not exist."""

    def train_on_nothing(bench: Bench, outcome: Outcome) -> None:
        bench.train(bench.workers.on_cpu(), "broken", task_recipe(bench, "causal", REFERENCE))

    folder = tmp_path_factory.mktemp("gpu")
    printed = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        patch.setattr(check, "PARTS", (Part("broken", "a part that fails", 0.05, train_on_nothing), *check.PARTS))
        options = ["--device=cpu", "--tiny", "--minutes=30", f"--json={folder / 'check.json'}", f"--folder={folder}"]
        code = check.main(options)
    yield code, printed.getvalue(), json.loads((folder / "check.json").read_text(encoding="utf-8"))
    assert [path.name for path in folder.iterdir()] == ["check.json"], "models and runs are removed"


def data_of(checked: tuple[int, str, dict[str, Any]], part: str) -> dict[str, Any]:
    """What a part found."""
    found: dict[str, Any] = checked[2]["parts"][part]["data"]
    return found


def test_a_part_that_fails_shows_its_error_and_stops_no_other(checked: tuple[int, str, dict[str, Any]]) -> None:
    code, printed, report = checked
    assert code == 1 and not report["passed"]
    broken = report["parts"]["broken"]
    assert broken["status"] == "error" and "train.jsonl" in broken["error"]
    assert {name: report["parts"][name]["status"] for name in NAMES} == dict.fromkeys(NAMES, "passed"), printed
    titles = [line for line in printed.splitlines() if line.startswith("== ")]
    assert ["error" in titles[0], *("passed" in title for title in titles[1:])] == [True] * (1 + len(NAMES))
    assert json.loads(printed.splitlines()[-1])["parts"] == {"broken": "error", **dict.fromkeys(NAMES, "passed")}


def test_every_task_has_the_losses_of_its_reference_on_every_strategy(
    checked: tuple[int, str, dict[str, Any]],
) -> None:
    tasks = data_of(checked, "losses")["tasks"]
    assert tasks.keys() == {
        "causal", "chat", "chat, LoRA", "classification", "masked", "token_classification", "translation"
    }  # fmt: skip
    assert tasks["causal"].keys() == {
        *(f"cpu fp32 {strategy}" for strategy in ("null", "zero0", "zero1", "zero2", "zero3")),
        "cpu bf16 null",
    }
    for task, layouts in tasks.items():
        reference = layouts["cpu fp32 null"]["losses"]
        assert len(reference) == 20 and reference[-1] < 0.9 * reference[0], task
        for layout, found in layouts.items():
            tolerance = 1e-4 if "fp32" in layout else 0.05
            assert found["losses"] == pytest.approx(reference, rel=tolerance), f"{task} on {layout}"
    assert tasks["causal"]["cpu bf16 null"]["difference"] > 1e-4, "another precision was used"


def test_a_moved_run_resumes_where_it_stopped(checked: tuple[int, str, dict[str, Any]]) -> None:
    found = data_of(checked, "resumes")
    assert [move["resumed_at"] for move in found["moves"]] == [10, 10]
    assert {(move["from"], move["to"]) for move in found["moves"]} == {
        ("cpu fp32 zero3", "cpu bf16 zero2"),
        ("cpu bf16 zero1", "cpu fp32 null"),
    }
    for move in found["moves"]:
        assert move["losses"] == pytest.approx(found["reference"], rel=0.05)


def test_memory_ran_out_and_the_micro_batches_were_halved(checked: tuple[int, str, dict[str, Any]]) -> None:
    found = data_of(checked, "shortage")
    budgets = found["budgets"]
    assert budgets and all(later == earlier // 2 for earlier, later in pairwise(budgets))
    assert len(found["losses"]) == 2 and found["difference"] < 1e-4


def test_checkpoints_in_the_background_are_those_that_training_waits_for(
    checked: tuple[int, str, dict[str, Any]],
) -> None:
    found = data_of(checked, "saves")
    assert found["relative"] == 0 and found["moved"] > 0 and found["num_tensors"] > 50


def test_memory_waits_and_speed_are_measured(checked: tuple[int, str, dict[str, Any]]) -> None:
    assert data_of(checked, "memory")["ways"].keys() == {"null", "null, LoRA", "zero2"}
    assert all(way["formulas"]["total"] > 0 for way in data_of(checked, "memory")["ways"].values())
    for subject in data_of(checked, "waits")["subjects"].values():
        assert subject["num_micro_batches"] > 2 and sum(subject["per_step"].values()) >= 1
    speed = data_of(checked, "speed")
    ours, trainer = (speed["measurements"][f"tiny full, eager, {side}"] for side in ("shardtune", "Trainer"))
    assert ours["is_packed"] and ours["padding_efficiency"] > 0.75 and ours["tflops_per_s"] > 0
    assert ours["losses"] == pytest.approx(trainer["losses"], rel=1e-3), "the same rows, weights and optimizer"
    assert not any(mark["is_compared"] for mark in speed["marks"].values()), "the marks are for other devices"
    assert any("+ liger" in text for text in checked[2]["parts"]["speed"]["skipped"])


def test_a_job_that_takes_too_long_ends_its_process(tmp_path: Path) -> None:
    worker = Worker("cpu", tmp_path / "log")
    with pytest.raises(OutOfTime):
        worker.do("facts", within_s=0.01)
    assert not worker.is_alive


def test_a_process_that_dies_is_a_job_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    worker = Worker("cpu", tmp_path / "log")
    with pytest.raises(JobFailed, match="ended with code 1"):
        worker.do("facts", within_s=60)
    worker.close()


def test_a_check_whose_processes_cannot_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert check.main([f"--folder={tmp_path}"]) == 2
    assert (
        "benchmarks.gpu: a process that trains cannot start: the process ended with code 1" in capsys.readouterr().err
    )
    assert not list(tmp_path.iterdir())
