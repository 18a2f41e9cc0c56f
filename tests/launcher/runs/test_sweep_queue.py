"""The points of a sweep on this machine, one after another."""

import signal
from pathlib import Path

import pytest

from shardtune.launcher.plan.job import JobPlan
from shardtune.launcher.plan.sweep import SweepPlan, plan_sweep
from shardtune.launcher.runs import sweep_queue
from shardtune.launcher.start.execute import Interrupt
from shardtune.run_dir.exit_codes import EXIT_RESUME

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
