"""`shardtune plan` on a machine without GPUs: the time of its CPU ranks, once it was measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardtune.known_machine.fingerprint import identify
from shardtune.known_machine.prepared_data import note_prepared
from shardtune.known_machine.store import keep_calibration, learn_from
from shardtune.launcher import cli
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.plan.outlook import outlook_of
from shardtune.launcher.start import calibrate, execute
from shardtune.planner.measured.calibration import Calibration
from shardtune.run_dir.files import METRICS
from shardtune.run_dir.run import find_run
from shardtune.run_dir.view.plan_file import write_plan
from tests.launcher.plan.test_outlook import job
from tests.support.calibrations import calibration

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}
HERE = Machine(0, 2, memory=2**35)
CPU = ("engine.deepspeed=null", "engine.precision=fp32", "train.micro_batch_tokens=4096")


@pytest.fixture(autouse=True)
def machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "model/config.json").write_text(json.dumps(TINY), encoding="utf-8")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr(execute, "find_machine", lambda: HERE)
    return folder


def measured(**how: Any) -> None:
    keep_calibration(identify(), calibration(identify().fingerprint, **how))


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert cli._carry_out(["plan", "recipe.yaml", *CPU, *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_machine_that_was_not_measured_says_how_it_can_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", "recipe.yaml", *CPU]) == 0
    assert "`shardtune plan --calibrate` measures this machine" in capsys.readouterr().err
    (line,) = outlook_of(job(*CPU, machine=HERE), now=0.0).lines
    assert line.startswith("plan: fits") and line.endswith("`shardtune plan --calibrate` measures this machine")


def test_of_a_measured_machine_the_time_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    measured()
    found = planned(capsys)
    assert found["machine"] == {"gpu": "cpu", "nodes": 1, "gpus_per_node": 2}
    assert found["step"]["seconds"] > 0 and found["run_seconds"] > 10 * found["step"]["seconds"]
    assert found["gpu_hours"] == pytest.approx(2 * found["run_seconds"] / 3600)
    assert cli._carry_out(["plan", "recipe.yaml", *CPU]) == 0
    text = capsys.readouterr().out
    assert "2 x a rank on CPUs" in text and "tokens/s per rank" in text and "rank-hours" in text and "kWh" not in text


def test_a_run_says_three_lines_and_keeps_its_plan() -> None:
    measured()
    found = outlook_of(job(*CPU, machine=HERE), now=1.7e9)
    fits, ends, takes = found.lines
    assert "GiB of a rank, at the " in fits
    assert ends.startswith("plan: ends at about ") and "rank-hours" in takes
    assert found.record is not None and found.record["machine"] == identify().fingerprint
    assert found.record["step_s"] == found.record["uncorrected_step_s"] > 0


def test_the_plan_changes_with_the_calibration(capsys: pytest.CaptureFixture[str]) -> None:
    measured()
    slow = planned(capsys)["step"]["seconds"]
    measured(speed=4.0)
    assert planned(capsys)["step"]["seconds"] == pytest.approx(slow / 4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["job.ranks=1"],
            "2 ranks of this machine were measured, not 1 in fp32; `shardtune plan --cal",
        ),
        (["engine.deepspeed=zero0"], "the time of engine.deepspeed: zero0 on CPUs is not planned"),
    ],
)
def test_what_was_not_measured_is_said(words: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    measured(ranks=(2,))
    assert cli._carry_out(["plan", "recipe.yaml", *CPU, *words, "--json"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line


def test_a_damaged_calibration_is_one_line_and_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    path = keep_calibration(identify(), calibration(identify().fingerprint))
    path.write_text("{", encoding="utf-8")
    notice, rest = outlook_of(job(*CPU, machine=HERE), now=0.0).lines
    assert notice.startswith(f"plan: {path} is ignored: it is not JSON") and rest.startswith("plan: fits")


def finished(folder: Path, factor: float) -> None:
    """A run that took so many times as long as planned, and is learned from."""
    record = outlook_of(job(*CPU, machine=HERE), now=0.0).record
    assert record is not None
    folder.mkdir()
    write_plan(folder, record)
    real = {"step_time_s": factor * record["uncorrected_step_s"], "memory_bytes": record["uncorrected_memory_bytes"]}
    events = [{"event": "start", "time": 1.0}, *({"event": "step", "time": 2.0, **real},) * 3]
    (folder / METRICS).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    learn_from(folder)


def test_earlier_runs_correct_a_plan_and_narrow_its_range(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured()
    before = planned(capsys)
    for number in range(3):  # whose plans are corrected themselves from the second on
        finished(machine / f"run-{number}", 1.3)
    after = planned(capsys)
    assert after["step"]["seconds"] == pytest.approx(1.3 * before["step"]["seconds"])
    assert after["corrected_by_runs"] == 3
    ranges = [found["run_seconds_range"][1] / found["run_seconds"] for found in (before, after)]
    assert ranges == pytest.approx([1.25, 1.08])
    assert cli._carry_out(["plan", "recipe.yaml", *CPU]) == 0
    assert "corrected by 3 earlier runs on this machine" in capsys.readouterr().out
    assert "corrected by 3 earlier runs" in outlook_of(job(*CPU, machine=HERE), now=0.0).lines[1]
    assert planned(capsys, "engine.deepspeed=zero2")["corrected_by_runs"] == 0


def test_prepared_data_are_counted_exactly(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measured()
    words = (f"data.cache_dir={machine}/cache",)
    assert planned(capsys, *words)["data_is_estimated"]
    prepared_data(machine / "cache/0123", find_run(Path("recipe.yaml"), [*CPU, *words], None).recipe)
    found = planned(capsys, *words)
    assert found["data_is_prepared"] and not found["data_is_estimated"]
    assert found["steps"] == 2  # 128 rows in batches of 64
    assert found["step"]["tokens"] == 64 * 100
    assert cli._carry_out(["plan", "recipe.yaml", *CPU, *words]) == 0
    assert "exact token counts of prepared data" in capsys.readouterr().out
    (machine / "train.txt").write_text("other words\n" * 99, encoding="utf-8")
    assert planned(capsys, *words)["data_is_estimated"]


def prepared_data(folder: Path, recipe: Any) -> None:
    """What preparing leaves in the cache, of 128 rows of 100 tokens."""
    import numpy as np

    folder.mkdir(parents=True)
    np.save(folder / "train.lengths.npy", np.full(128, 100, dtype=np.int32))
    meta = {"splits": {"train": {"rows": 128, "examples": 128, "tokens": 12_800}}}
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    note_prepared(recipe, folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "plan: which recipe?"),
        (["recipe.yaml", "--calibrate"], "--calibrate measures the machine, whatever the recipe"),
        (["recipe.yaml", "--ranks=2"], "--ranks are those that --calibrate measures"),
        (["--calibrate", "--ranks=none"], "--ranks takes numbers above 0"),
        (["--calibrate", "--ranks=0,1"], "--ranks takes numbers above 0"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["plan", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def ranks_that_measure(speeds: dict[int, float], seen: list[dict[str, str]]) -> Callable[..., int]:
    def run(argv: list[str], environment: dict[str, str]) -> int:
        num = int(next(word for word in argv if word.startswith("--nproc-per-node=")).partition("=")[2])
        out = Path(next(word for word in argv if word.startswith("--out=")).partition("=")[2])
        seen.append(dict(environment))
        if num not in speeds:
            return 1
        found = calibration(identify().fingerprint, speed=speeds[num], ranks=(num,))
        out.write_text(json.dumps(found.as_json()), encoding="utf-8")
        return 0

    return run


def test_calibrate_measures_the_ranks_of_runs_and_keeps_what_was_measured_before(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(execute, "run_ranks", ranks_that_measure({1: 1.0, 2: 1.0}, seen))
    assert cli._carry_out(["plan", "--calibrate"]) == 0
    assert [each["OMP_NUM_THREADS"] for each in seen] == ["2", "1"]
    text = capsys.readouterr().out
    assert "1 rank of 2 threads: fp32 20 GFLOP/s" in text and "kept in" in text
    monkeypatch.setattr(execute, "run_ranks", ranks_that_measure({2: 3.0}, seen))
    assert cli._carry_out(["plan", "--calibrate", "--ranks=2", "--json"]) == 0
    layouts = json.loads(capsys.readouterr().out)["cpus"]
    assert [layout["ranks"] for layout in layouts] == [1, 2]
    assert planned(capsys)["step"]["seconds"] > 0


def test_ranks_that_fail_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(execute, "run_ranks", ranks_that_measure({}, []))
    assert cli._carry_out(["plan", "--calibrate"]) == 2
    assert "plan --calibrate: 1 rank on cpu failed" in capsys.readouterr().err


def test_new_numbers_replace_those_of_as_many_ranks() -> None:
    old, new = calibration(ranks=(1, 2)), calibration(ranks=(2,), speed=2.0)
    found = calibrate.merged(old, new)
    assert found.on_cpus(1) == old.on_cpus(1) and found.on_cpus(2) == new.on_cpus(2)
    assert calibrate.merged(Calibration("machine"), new).cpus == new.cpus
