"""What is decided about W&B where the recipe is silent, and that it is said."""

import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.view.results import finished_message
from shardtune.trainer.reporting.wandb_run.choice import WandbChoice, choose_wandb, give_wandb_a_home

SMALLEST = "task: {kind: classification}\nmodel: {path: m}\ndata: {train: t}\n"
SELF_HOSTED = {"WANDB_BASE_URL": "https://wandb.our.org:8080/"}


def chosen(folder: Path, environment: dict[str, str], *overrides: str) -> WandbChoice:
    return choose_wandb(recipe_of(*overrides), folder / "run-7", {"HOME": str(folder), **environment})


def recipe_of(*overrides: str) -> Recipe:
    return parse_recipe(SMALLEST, overrides)


@pytest.mark.parametrize(
    ("by_recipe", "environment", "mode", "why"),
    [
        ("auto", {}, "offline", "no API key for api.wandb.ai: WANDB_API_KEY is not set, and {home}/.netrc has none"),
        ("auto", {"WANDB_API_KEY": "k"}, "online", "WANDB_API_KEY is set"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "disabled"}, "disabled", "WANDB_MODE=disabled"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_MODE": "dryrun"}, "offline", "WANDB_MODE=dryrun"),
        ("auto", {"WANDB_MODE": "run"}, "online", "WANDB_MODE=run"),
        ("auto", {"WANDB_API_KEY": "k", "WANDB_DISABLED": "true"}, "disabled", "WANDB_DISABLED=true"),
        (
            "auto",
            {"WANDB_API_KEY": "k", "WANDB_MODE": "of"},
            "online",
            "WANDB_API_KEY is set; WANDB_MODE=of is not a mode (online, run, shared, offline, dryrun, disabled) and is "
            "ignored",
        ),
        ("online", {"WANDB_DISABLED": "true"}, "online", "report.wandb"),
        ("disabled", {"WANDB_API_KEY": "k"}, "disabled", "report.wandb"),
        ("offline", {"WANDB_API_KEY": "k"}, "offline", "report.wandb"),
    ],
)
def test_the_recipe_decides_then_the_environment_then_a_key(
    tmp_path: Path, by_recipe: str, environment: dict[str, str], mode: str, why: str
) -> None:
    choice = chosen(tmp_path, environment, f"report.wandb={by_recipe}")
    assert (choice.mode, choice.why) == (mode, why.format(home=tmp_path))


@pytest.mark.parametrize(
    ("netrc", "environment", "mode"),
    [
        ("machine api.wandb.ai login user password k", {}, "online"),
        ("machine api.wandb.ai login user password k", SELF_HOSTED, "offline"),
        ("machine wandb.our.org:8080 login user password k", SELF_HOSTED, "online"),
        ("machine wandb.our.org login user password k", SELF_HOSTED, "online"),
        ("machine wandb.our.org:8080 login user password k", {}, "offline"),
        ("machine wandb.our.org:8080 login user", SELF_HOSTED, "offline"),
        ("machine machine machine", {}, "offline"),
    ],
)
def test_the_key_is_that_of_the_server_in_use(
    tmp_path: Path, netrc: str, environment: dict[str, str], mode: str
) -> None:
    (tmp_path / ".netrc").write_text(netrc)
    (tmp_path / ".netrc").chmod(0o600)
    assert chosen(tmp_path, environment).mode == mode
    (tmp_path / ".netrc").rename(tmp_path / "elsewhere")
    assert chosen(tmp_path, environment).mode == "offline"
    assert chosen(tmp_path, {**environment, "NETRC": str(tmp_path / "elsewhere")}).mode == mode


def test_the_server_of_wandb_login_is_known(tmp_path: Path) -> None:
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text("[default]\nbase_url = https://wandb.kept.org\n")
    (tmp_path / "_netrc").write_text("machine wandb.kept.org login user password k")
    (tmp_path / "_netrc").chmod(0o600)
    choice = chosen(tmp_path, {})
    assert (choice.mode, choice.server) == ("online", "https://wandb.kept.org")
    assert chosen(tmp_path, SELF_HOSTED).server == SELF_HOSTED["WANDB_BASE_URL"]
    assert chosen(tmp_path, {"WANDB_CONFIG_DIR": str(tmp_path)}).server == "https://api.wandb.ai"


@pytest.mark.parametrize(
    ("overrides", "environment", "project", "name"),
    [
        ((), {}, "shardtune", "run-7"),
        ((), {"WANDB_PROJECT": "theirs", "WANDB_NAME": "n"}, "theirs", "n"),
        ((), {"WANDB_PROJECT": "", "WANDB_NAME": ""}, "shardtune", "run-7"),
        (("report.project=ours", "report.name=x"), {"WANDB_PROJECT": "theirs", "WANDB_NAME": "n"}, "ours", "x"),
        (("report.project=shardtune",), {"WANDB_PROJECT": "theirs"}, "shardtune", "run-7"),
    ],
)
def test_the_names_of_the_environment_count_where_the_recipe_has_none(
    tmp_path: Path, overrides: tuple[str, ...], environment: dict[str, str], project: str, name: str
) -> None:
    choice = chosen(tmp_path, environment, *overrides)
    assert (choice.project, choice.name) == (project, name)


def test_wandb_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR")
    for name in kept:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    give_wandb_a_home(tmp_path)
    assert [os.environ.get(name) for name in kept] == [None] * 3, "there is a home"

    def unknown(user: Any) -> Any:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", "/ours")
    give_wandb_a_home(tmp_path)
    folder = str(tmp_path / "wandb")
    assert [os.environ.get(name) for name in kept] == [folder, "/ours", folder]


NAMES = {
    "WANDB_PROJECT": "p",
    "WANDB_NAME": "n",
    "WANDB_ENTITY": "e",
    "WANDB_RUN_GROUP": "g",
    "WANDB_TAGS": "one, 2,",
    "WANDB_NOTES": "why",
    "WANDB_JOB_TYPE": "j",
}
RECIPE_NAMES = (
    "report.project=P", "report.name=N", "report.entity=E", "report.group=G", "report.tags=[a, 'b,c']",
    "report.notes=W", "report.job_type=J",
)  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "environment", "expected"),
    [
        ((), {}, ("shardtune", "run-7", None, None, (), None, "train")),
        ((), NAMES, ("p", "n", "e", "g", ("one", "2"), "why", "j")),
        ((), dict.fromkeys(NAMES, ""), ("shardtune", "run-7", None, None, (), None, "train")),
        (RECIPE_NAMES, {}, ("P", "N", "E", "G", ("a", "b,c"), "W", "J")),
        (RECIPE_NAMES, NAMES, ("P", "N", "E", "G", ("a", "b,c"), "W", "J")),
        (("report.tags=[]",), NAMES, ("p", "n", "e", "g", (), "why", "j")),
    ],
)
def test_every_name_comes_from_the_recipe_or_else_from_its_variable(
    tmp_path: Path, overrides: tuple[str, ...], environment: dict[str, str], expected: tuple[object, ...]
) -> None:
    choice = chosen(tmp_path, environment, *overrides)
    found = (choice.project, choice.name, choice.entity, choice.group, choice.tags, choice.notes, choice.job_type)
    assert found == expected


def test_the_files_are_where_wandb_dir_says(tmp_path: Path) -> None:
    assert chosen(tmp_path, {}).folder == tmp_path / "run-7" / "wandb"
    assert chosen(tmp_path, {"WANDB_DIR": str(tmp_path / "w")}).folder == tmp_path / "w" / "wandb"


def test_it_is_said_what_decided_each_name(tmp_path: Path) -> None:
    line = chosen(tmp_path, {**NAMES, "WANDB_DIR": "/w"}, "report.project=P", "report.name=n").line(tmp_path / "run-7")
    assert line is not None
    expected = (
        "entity e (WANDB_ENTITY), project P (report.project, not WANDB_PROJECT), run n (report.name), "
        "group g (WANDB_RUN_GROUP), tags one 2 (WANDB_TAGS), job type j (WANDB_JOB_TYPE), notes as given (WANDB_NOTES)"
        ", files in /w/wandb (WANDB_DIR)"
    )
    assert expected in line


def test_one_line_says_what_was_decided_with_the_folder_and_the_command(tmp_path: Path) -> None:
    run_dir = tmp_path / "a run"
    offline = choose_wandb(recipe_of("report.wandb=offline"), run_dir, {})
    command = f"shardtune sync '{run_dir}'"
    assert offline.line(run_dir) == (
        f"W&B is offline (report.wandb): project shardtune, run a run, files in {run_dir}/wandb; to upload: {command}"
    )
    online = choose_wandb(recipe_of(), run_dir, {"WANDB_API_KEY": "k", **SELF_HOSTED, "WANDB_PROJECT": "p"})
    assert online.line(run_dir) == (
        f"W&B is online at https://wandb.our.org:8080/ (WANDB_API_KEY is set): project p (WANDB_PROJECT), run a run, "
        f"files in {run_dir}/wandb"
    )
    assert choose_wandb(recipe_of("report.wandb=disabled"), run_dir, {}).line(run_dir) is None
    assert choose_wandb(recipe_of(), run_dir, {"WANDB_MODE": "disabled"}).line(run_dir) == (
        "W&B is disabled: WANDB_MODE=disabled"
    )

    (run_dir / "wandb" / "offline-run-1").mkdir(parents=True)
    (run_dir / "results.json").write_text("{}")
    assert f"W&B         {run_dir}/wandb; to upload: {command}\n" in finished_message(recipe_of(), run_dir)
