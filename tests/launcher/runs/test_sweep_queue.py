"""The points of a sweep on this machine, one after another."""

import json
import signal
from pathlib import Path

import pytest

from shardtune.launcher.plan.job import JobPlan
from shardtune.launcher.plan.several import plan_several
from shardtune.launcher.plan.sweep import SweepPlan, load_sweep, plan_sweep
from shardtune.launcher.runs import sweep_queue
from shardtune.launcher.start.execute import Interrupt
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_RESUME
from shardtune.run_dir.files import RESULTS

RECIPE = """\
task: {kind: classification}
model: {path: owner/name}
data: {train: hf:owner/rows, cache_dir: ./cache}
job: {ranks: 1, device: cpu}
"""


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepPlan:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))  # no Slurm
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "x.yaml").write_text(RECIPE)
    return plan_sweep(Path("x.yaml"), [], tmp_path / "a sweep", [["optim.lr=1e-4"], ["optim.lr=2e-4"]])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, None])
def test_a_signal_ends_the_sweep_and_a_stopped_point_does_not(
    sweep: SweepPlan, monkeypatch: pytest.MonkeyPatch, number: signal.Signals | None
) -> None:
    trained: list[str] = []

    def stopped(plan: JobPlan, received: list[Interrupt]) -> int:
        trained.append(plan.run_dir.name)
        received += [Interrupt(number, 0.0)] if number else []
        return EXIT_RESUME

    monkeypatch.setattr(sweep_queue.execute, "run_job", stopped)
    said: list[str] = []
    code = sweep_queue.run_here(sweep, said.append)
    if number is None:
        assert (len(trained), code) == (2, 1)
    else:
        assert (len(trained), code) == (1, EXIT_RESUME)
        assert said[-1] == f"the sweep is stopped at point 0; to resume: shardtune sweep '{sweep.sweep_dir}'"


def seeds(*numbers: int) -> SweepPlan:
    sweep = plan_several(Path("x.yaml"), [f"train.seeds={list(numbers)}"], None)
    assert sweep is not None
    return sweep


@pytest.mark.usefixtures("sweep")
def test_finished_seeds_are_not_trained_again_and_a_new_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []

    def finished(plan: JobPlan, received: list[Interrupt]) -> int:
        trained.append(plan.run_dir.name)
        assert plan.recipe.train.seed == int(plan.run_dir.name.removeprefix("seed-"))
        results = {"best_step": 1, "test": {"accuracy": 0.5 + plan.recipe.train.seed / 10}}
        (plan.run_dir / RESULTS).write_text(json.dumps(results))
        return EXIT_OK

    monkeypatch.setattr(sweep_queue.execute, "run_job", finished)
    said: list[str] = []
    assert sweep_queue.run_here(seeds(1, 2), said.append) == EXIT_OK
    assert trained == ["seed-1", "seed-2"] and said[0] == "== run seed-1 of 2: train.seed=1"
    assert sweep_queue.run_here(seeds(1, 2, 3), said.append) == EXIT_OK
    assert trained == ["seed-1", "seed-2", "seed-3"]
    assert "test/accuracy  0.7000  0.1000  3  0.4516 to 0.9484" in said[-1]
    assert sweep_queue.run_here(load_sweep(seeds(1, 2, 3).sweep_dir), said.append) == EXIT_OK
    assert len(trained) == 3


@pytest.mark.usefixtures("sweep")
def test_a_stopped_seed_says_how_all_are_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(plan: JobPlan, received: list[Interrupt]) -> int:
        received.append(Interrupt(signal.SIGTERM, 0.0))
        return EXIT_RESUME

    monkeypatch.setattr(sweep_queue.execute, "run_job", stopped)
    said: list[str] = []
    assert sweep_queue.run_here(seeds(1, 2), said.append) == EXIT_RESUME
    assert said[-1] == f"the sweep is stopped at run seed-1; to resume: shardtune run {seeds(1, 2).sweep_dir}"
