"""`shardtune replay` sends a run to a tracker, and refuses in one line what it cannot do."""

import sys
from pathlib import Path

import pytest

from shardtune.launcher import cli
from shardtune.recipe.load import render_recipe
from shardtune.recipe.sections.report import ReportConfig
from shardtune.run_dir.files import CONFIG, LEASE
from shardtune.run_dir.lease_holder import render_holder, this_process
from shardtune.run_dir.run import read_config
from shardtune.run_dir.trackers import TRACKERS
from shardtune.run_dir.trackers.tracker import facts_of
from tests.support.runs import tiny_recipe
from tests.support.tracked_run import WHOLE, write_events
from tests.support.tracker_readers import read_tensorboard


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory whose recipe says report.also=[tensorboard]."""
    folder = write_events(tmp_path / "run", WHOLE)
    recipe = tiny_recipe(tmp_path, "report.also=[tensorboard]", "report.project=ours")
    (folder / CONFIG).write_text(render_recipe(recipe), encoding="utf-8")
    return folder


def test_a_run_is_sent_once_under_the_settings_of_its_recipe(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for sent in ("10 records", "nothing new"):
        assert cli._carry_out(["replay", str(run_dir), "--to=tensorboard"]) == 0
        assert capsys.readouterr().out == f"tensorboard: {sent}; run tensorboard in {run_dir / 'tensorboard'}\n"
    found = read_tensorboard(facts_of(read_config(run_dir), run_dir))
    assert found.config["report.project"] == "ours"
    assert len(found.points["train/loss"]) == 3


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("", "--to is missing; choose from tensorboard, mlflow, trackio, swanlab"),
        ("--to=wandb", "--to got 'wandb'; choose from tensorboard"),
        ("--to=tensorboard --uri=x", "--uri does not apply to tensorboard, which takes --name, --out"),
        ("--to=mlflow --uri=x --out=y", "--out and --uri both say where to; give one of them"),
        ("--to=mlflow --uri=sqlite:///x.db", "mlflow-skinny has none; pip install mlflow"),
        ("--to=trackio --project=x_system", "trackio: ValueError: Project name 'x_system' is not allowed"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    run_dir: Path, capsys: pytest.CaptureFixture[str], words: str, answer: str
) -> None:
    assert cli._carry_out(["replay", str(run_dir), *words.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert answer in line


def test_a_run_that_reports_to_the_tracker_itself_is_not_replayed_beside_it(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run_dir / LEASE).write_text(render_holder(this_process(job=None, token="a token")))
    assert cli._carry_out(["replay", str(run_dir), "--to=tensorboard"]) == 2
    assert "reports to tensorboard itself (report.also)" in capsys.readouterr().err
    assert not (run_dir / "tensorboard").exists()


def test_a_missing_package_is_named_with_the_extra_that_has_it(
    run_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert cli._carry_out(["replay", str(run_dir), "--to=trackio"]) == 2
    line = "--to=trackio: the package trackio is not installed; pip install 'shardtune[trackio]'\n"
    assert capsys.readouterr().err == line


def test_a_directory_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out(["replay", str(tmp_path), "--to=tensorboard"]) == 2
    assert "not a run directory" in capsys.readouterr().err


def test_each_tracker_of_a_recipe_can_be_replayed_to() -> None:
    assert all(ReportConfig(also=(name,)).also == (name,) for name in TRACKERS if name != "swanlab")  # type: ignore[arg-type]
