"""What is said of the user's repository."""

import subprocess
from pathlib import Path

import pytest

from shardtune.machine.repository import repository_of


def git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@y", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert repository_of(tmp_path) is None, "no commit yet"
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "one")
    git(tmp_path, "remote", "add", "origin", "https://host/x.git")
    found = repository_of(tmp_path)
    assert found is not None
    assert (found.commit, found.is_dirty, found.remote) == (
        git(tmp_path, "rev-parse", "HEAD"),
        False,
        "https://host/x.git",
    )
    (tmp_path / "b").write_text("untracked")
    (tmp_path / "a").write_text("2")
    found = repository_of(tmp_path)
    assert found is not None and found.is_dirty


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repository_of(Path.cwd()) is None
