"""Which runs `watch` shows, and what it exits with."""

import json
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError
from shardtune.launcher.commands import slurm as commands
from shardtune.launcher.runs import monitor, watched
from tests.support.hand_made_run import life, write_run


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def test_a_sweep_stands_for_its_points_and_each_run_is_there_once(tmp_path: Path) -> None:
    points = [write_run(tmp_path / "sweep" / number, []) for number in "01"]
    sweep = {"recipe": "x.yaml", "points": [{"number": number} for number in (0, 1, 2)]}
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(sweep))
    single = write_run(tmp_path / "r", [])
    assert watched.given_run_dirs([Path("r"), Path("sweep"), Path("sweep/../r")]) == [single, *points]
    with pytest.raises(CheckpointError, match=r"nowhere: not a run directory"):
        watched.given_run_dirs([Path("r"), Path("nowhere")])


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["finished", "finished"], 0),
        (["finished", "stopped"], 75),
        (["stopped", "failed"], 1),
        (["finished", "lost"], 1),
        (["gone"], 1),
        (["failed", "running"], 130),
        (["pending"], 130),
        ([], 0),
    ],
)
def test_the_exit_code_is_that_of_all_runs(states: list[str], code: int) -> None:
    assert monitor.exit_code(states) == code


def test_without_names_and_without_a_terminal_only_runs_that_are_going_on_are_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs" / "old", life(3))
    assert commands.watch().perform() == 0
    assert capsys.readouterr().out == "no run is going on; all runs: shardtune status\n"
    going_on = write_run(tmp_path / "runs" / "new", life(3), is_going_on=True)
    monkeypatch.setattr(monitor.time, "sleep", lambda _: (going_on / "lease.json").unlink())
    assert commands.watch().perform() == 1
    out, err = capsys.readouterr()
    assert "runs/new: lost" in out and "/runs/old" not in out and "step 3/100" in err


def test_a_power_failures_line_does_not_keep_a_run_from_being_looked_at(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "r", life(3))
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\0\0\n")
    assert monitor.look_at(run_dir).step == 3
    assert commands.watch(str(run_dir)).perform() == 1
