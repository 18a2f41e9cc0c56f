"""`shardtune suspects` trains the folds that are missing, and gives all of them to the ranks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.plan.sweep import SweepPlan
from shardtune.launcher.runs import sweep_queue
from shardtune.launcher.runs.suspects import list_suspects
from shardtune.launcher.start import execute
from shardtune.run_dir.files import failure_path
from tests.launcher.plan.test_folds import written


@pytest.fixture
def run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a finished run."""
    run_dir = written(tmp_path / "run")
    (run_dir / "results.json").write_text("{}")
    monkeypatch.setattr(execute, "find_machine", lambda: Machine(0, 8))
    return run_dir


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The command lines of ranks, which end at once."""
    lines: list[Sequence[str]] = []

    def run_ranks(argv: Sequence[str], environment: Mapping[str, str], errors: Path | None = None) -> int:
        lines.append(argv)
        if errors is None:
            return 0
        errors.write_text("torchrun's own traceback")
        failure = {"rank": 1, "host": "here", "time": 2e9, "code": 2, "text": "its weights cannot be read"}
        failure_path(errors.parents[1], 1).write_text(json.dumps(failure))
        return 1

    monkeypatch.setattr(execute, "run_ranks", run_ranks)
    return lines


def test_without_folds_the_model_of_the_run_judges_alone_and_the_report_is_renewed(
    run_dir: Path, started: list[Sequence[str]]
) -> None:
    assert list_suspects(run_dir, ["--top=9"], num_folds=None, num_ranks=None, is_local=True, say=print) == 0
    assert [line[3:] for line in started] == [(str(run_dir), "--top=9", "--device=cpu")]
    assert (run_dir / "report.html").is_file()


def test_folds_are_trained_once_and_judge_from_then_on(
    run_dir: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Path] = []

    def run_here(sweep: SweepPlan, say: object) -> int:
        for point in sweep.points:
            trained.append(point.run_dir)
            point.run_dir.mkdir(parents=True)
            (point.run_dir / "results.json").write_text("{}")
        return 0

    monkeypatch.setattr(sweep_queue, "run_here", run_here)
    for _ in range(2):
        assert list_suspects(run_dir, [], num_folds=2, num_ranks=None, is_local=True, say=print) == 0
    assert trained == [run_dir.with_name("run-folds-2") / str(fold) for fold in range(2)]
    assert [[word for word in line if "--fold" in word] for line in started] == [[f"--fold={f}" for f in trained]] * 2


def test_a_fold_that_fails_ends_it_with_its_exit_code(
    run_dir: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_queue, "run_here", lambda *_: 130)
    assert list_suspects(run_dir, [], num_folds=2, num_ranks=None, is_local=True, say=print) == 130
    assert not started


def test_a_rank_that_fails_says_why(
    run_dir: Path, started: list[Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert list_suspects(run_dir, [], num_folds=None, num_ranks=2, is_local=True, say=print) == 2
    assert capsys.readouterr().err == "its weights cannot be read\n"
    assert not (run_dir / "report.html").exists()


def test_a_run_that_is_not_finished_is_refused_before_anything_is_trained(run_dir: Path) -> None:
    (run_dir / "results.json").unlink()
    with pytest.raises(CheckpointError, match=r"is not finished; `shardtune run .*/run` resumes it"):
        list_suspects(run_dir, [], num_folds=5, num_ranks=None, is_local=True, say=print)
