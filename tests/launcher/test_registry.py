"""Runs are known wherever they lie, for as long as they are there."""

import shutil
from pathlib import Path

import pytest

from shardtune.launcher import registry as register
from shardtune.launcher.registry import known, register_file, remember
from shardtune.launcher.runs import monitor


def new_run(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.yaml").touch()
    return path


def test_a_run_is_known_once_from_any_folder_until_it_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = new_run(tmp_path / "here" / "one"), new_run(tmp_path / "else where" / "two")
    monkeypatch.chdir(tmp_path / "here")
    remember(Path("one"), two)
    remember(one)
    monkeypatch.chdir("/")
    assert known() == [one, two]
    assert [run.run_dir for run in monitor.known_runs()] == [str(two), str(one)]
    shutil.rmtree(one)
    assert known() == [two]


def test_what_is_gone_is_forgotten_when_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "MANY", 3)
    runs = [new_run(tmp_path / str(number)) for number in range(5)]
    remember(*runs[:3])
    shutil.rmtree(runs[0])
    remember(*runs[3:])
    assert register_file().read_text().splitlines() == [str(run_dir) for run_dir in runs[1:]]


def test_a_home_that_cannot_be_written_keeps_no_one_from_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    remember(new_run(tmp_path / "a"))
    assert known() == []


def test_the_register_is_in_the_state_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert register_file() == tmp_path / ".local" / "state" / "shardtune" / "runs"
