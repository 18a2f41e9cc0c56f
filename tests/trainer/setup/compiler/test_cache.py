"""Compiled code is kept where no other user can put code that would be run."""

import os
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from shardtune.trainer.setup.compiler.cache import VARIABLE, keep_compiled_code


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(VARIABLE, "")
    return tmp_path


@pytest.mark.parametrize("before", ["", default_cache_dir()])
def test_it_survives_a_start_in_a_folder_that_others_cannot_enter(
    home: Path, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, before)
    assert keep_compiled_code() is None
    folder = Path(os.environ[VARIABLE])
    assert folder == home / ".cache" / "shardtune" / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_write_to_is_not_used(home: Path) -> None:
    folder = home / ".cache" / "shardtune" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    note = keep_compiled_code()
    assert note is not None and f"{folder} can be written to by other users" in note and VARIABLE in note
    assert Path(os.environ[VARIABLE]) != folder and Path(os.environ[VARIABLE]).stat().st_mode & 0o777 == 0o700


def test_what_the_environment_says_stays(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "/scratch/mine")
    assert keep_compiled_code() is None
    assert os.environ[VARIABLE] == "/scratch/mine"
