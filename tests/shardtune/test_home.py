"""`~` is a home directory or a fault, and never a folder of that name."""

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.launcher import cli
from shardtune.launcher.registry import known, remember
from shardtune.launcher.runs import monitor
from shardtune.recipe.load import load_recipe, machine_recipe, parse_recipe
from shardtune.run_dir.run import find_run
from shardtune.trainer.data.prepare.prepare import prepare

RECIPE = "task: {kind: classification}\nmodel: {path: ./model}\ndata:\n  train: train.jsonl\n"
UNKNOWN = "set HOME, or give an absolute path"


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of a user id that the password file does not know, without HOME; with a recipe."""

    def unknown(user: Any) -> Any:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(RECIPE)
    (tmp_path / "model").mkdir()
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": "b"}\n')
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_recipe_that_needs_a_home_is_refused_at_its_key(homeless: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_recipe(homeless / "x.yaml", ["model.path=~/model", "data.dev=~/dev.jsonl", "data.test={path: ~/t/*.csv}"])
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{homeless}/x.yaml:3: data.cache_dir: '~/.cache/shardtune': user id ")
    assert ["model.path=" in lines[1], "data.dev=" in lines[2], "data.test=" in lines[3]] == [True] * 3
    assert all(line.endswith(UNKNOWN) for line in lines)


def test_with_absolute_paths_no_home_is_needed(homeless: Path) -> None:
    recipe = load_recipe(homeless / "x.yaml", ["data.cache_dir=cache"])
    assert recipe.data.cache_dir == f"{homeless}/cache"
    assert machine_recipe([]).job == recipe.job
    remember(homeless / "run")
    assert known() == []
    assert names(homeless) == ["model", "train.jsonl", "x.yaml"]


def test_no_folder_is_made_of_it(homeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = parse_recipe(RECIPE)
    with pytest.raises(ConfigError, match=UNKNOWN):
        prepare(recipe)
    with pytest.raises(ConfigError, match=UNKNOWN):
        find_run(homeless / "x.yaml", ["data.cache_dir=cache"], Path("~/runs/a"))
    for line in ("run x.yaml --run-dir=~/runs", "run ~/x.yaml", "export r --out=~nobody_of_this_name/x"):
        assert cli._carry_out(line.split()) == 2
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 3
        and lines[0].startswith("'~/runs': user id ")
        and lines[2].startswith("'~nobody_of_this_name/x': ")
    )
    assert names(homeless) == ["model", "train.jsonl", "x.yaml"]


def test_a_user_without_a_name_stops_a_run(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(homeless))  # no Slurm
    (homeless / "run").mkdir()
    for name in ("config.yaml", "lease.json"):
        (homeless / "run" / name).touch()
    monitor.stop(homeless / "run", now=False)
    assert f'"user id {os.getuid()}"' in (homeless / "run" / "stop_request.json").read_text()


def test_a_home_is_put_in_where_the_shell_leaves_the_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_home("~/a") == tmp_path / "a" and expand_home("a/~") == Path("a/~")
    assert cli._at_home("--run-dir=~/a", is_first=False) == f"--run-dir={tmp_path}/a"
    assert cli._at_home("--text=~/a", is_first=False) == "--text=~/a"
    assert cli._at_home("report.name=~a", is_first=False) == "report.name=~a"


def test_a_file_whose_name_begins_with_a_tilde_is_just_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(RECIPE)
    (tmp_path / "model").mkdir()
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "~draft.jsonl").touch()
    recipe = load_recipe(tmp_path / "x.yaml", ["data.dev=~draft.jsonl"])
    assert recipe.data.dev == f"{tmp_path}/~draft.jsonl"
    with pytest.raises(ConfigError, match=r"'~gone.jsonl': there is no user 'gone.jsonl'; give an absolute path"):
        load_recipe(tmp_path / "x.yaml", ["data.dev=~gone.jsonl"])


@pytest.mark.parametrize("override", ["model.path=org/name", "data.dev=hf:owner/name"])
def test_without_a_home_nothing_is_downloaded_into_a_folder_of_that_name(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "~/.cache/huggingface/hub")
    with pytest.raises(ConfigError, match=r"'~/.cache/huggingface': user id .*; set HOME, or HF_HOME"):
        load_recipe(homeless / "x.yaml", ["data.cache_dir=cache", override])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/scratch/hub")
    assert load_recipe(homeless / "x.yaml", ["data.cache_dir=cache", override])
