"""A run says its plan before it starts, from files alone, and no failure of the planner stops it."""

import json
from pathlib import Path

import pytest

from shardtune.launcher.plan import outlook as module
from shardtune.launcher.plan.job import JobPlan, Machine, plan_job
from shardtune.launcher.plan.outlook import outlook_of, steps_done
from shardtune.launcher.start.announce import announce_plan
from shardtune.run_dir.view.plan_file import read_plan
from tests.launcher.commands.conftest import LLAMA_8B, RECIPE

SERVER = Machine(8, 64, gpu_name="NVIDIA H100 80GB HBM3")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text(json.dumps(LLAMA_8B), encoding="utf-8")
    (tmp_path / "train.txt").write_text(f"{'word ' * 400}\n" * 640, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(*overrides: str, machine: Machine = SERVER) -> JobPlan:
    return plan_job(Path("recipe.yaml"), overrides, Path("run"), machine)


def test_on_gpus_it_says_whether_it_fits_when_it_ends_and_what_it_takes() -> None:
    found = outlook_of(job(), now=1.7e9)
    fits, ends, takes = found.lines
    assert fits.startswith("plan: ") and "of 79.6 GiB of a h100-sxm-80g" in fits
    assert ends.startswith("plan: ends at about ") and ends.endswith("by the size of the data's files")
    assert takes.startswith("plan: ") and "GPU-hours" in takes
    assert found.record is not None and found.record["ranks"] == 8 and found.record["step_s"] > 0


def test_on_cpus_it_says_what_of_a_ranks_memory_is_used() -> None:
    found = outlook_of(job("engine.deepspeed=null", "train.micro_batch_tokens=2048", machine=Machine(0, 2)), now=0.0)
    (line,) = found.lines
    assert line.startswith("plan: ") and "GiB of a rank, at the " in line
    assert found.record is not None and found.record["memory_bytes"] > 8e9 * (4 + 12 / 2)
    assert "step_s" not in found.record


@pytest.mark.parametrize(
    ("config", "machine", "reason"),
    [
        ('{"model_type": "mamba"}', SERVER, "does not know the architecture 'mamba'"),
        ("{", SERVER, "cannot be read"),
        (json.dumps(LLAMA_8B), Machine(8, 64, gpu_name="NVIDIA X1"), "unknown GPU 'NVIDIA X1'"),
        (json.dumps(LLAMA_8B), Machine(8, 64), "kind of the GPUs is not known"),
    ],
)
def test_what_the_planner_does_not_know_is_one_short_line(
    folder: Path, config: str, machine: Machine, reason: str
) -> None:
    (folder / "model/config.json").write_text(config, encoding="utf-8")
    found = outlook_of(job(machine=machine), now=0.0)
    (line,) = found.lines
    assert line.startswith("plan: none") and reason in line and len(line) < 250
    assert found.record is None


def test_a_bug_of_the_planner_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(module, "forecast", broken)
    assert outlook_of(job(), now=0.0).lines == ("plan: none: ZeroDivisionError: division by zero",)


def test_a_model_of_the_hub_that_is_not_on_this_machine_is_not_fetched_for_it() -> None:
    (line,) = outlook_of(job("model.path=no-such-org/no-such-model"), now=0.0).lines
    assert line == "plan: none: model.path: the config.json of 'no-such-org/no-such-model' is not on this machine yet"


def test_a_resumed_run_ends_sooner(folder: Path) -> None:
    def ends(plan: JobPlan) -> str:
        return outlook_of(plan, now=1.7e9).lines[1].split(" (")[0]

    (folder / "run").mkdir()
    whole = ends(job("train.max_steps=90000"))
    lines = [json.dumps({"event": "step", "step": step}) for step in range(1, 60_001)]
    (folder / "run/metrics.jsonl").write_text("\n".join([*lines, '{"event": "st']), encoding="utf-8")
    assert steps_done(folder / "run") == 60_000
    assert steps_done(folder / "other") == 0
    assert ends(job("train.max_steps=90000")) < whole  # dates, which sort as texts


def test_it_is_said_and_kept_unless_the_run_is_finished(folder: Path) -> None:
    (folder / "run").mkdir()
    said: list[str] = []
    announce_plan(job(), said.append)
    assert len(said) == 3
    kept = read_plan(folder / "run")
    assert kept is not None and kept["device"] == "h100-sxm-80g"
    (folder / "run/results.json").write_text("{}", encoding="utf-8")
    announce_plan(job(), said.append)
    assert len(said) == 3
