"""A command line is taken, or answered in one line of our own: Fire's words never reach a user."""

import inspect
import re
from pathlib import Path

import pytest

from shardtune.launcher import cli
from shardtune.launcher.commands.arguments import OTHER_NAMES, bind, is_word


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The only line that a refused command line prints."""
    assert cli._carry_out(list(words)) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    for raw in ("FIRE", "Usage", "ERROR", "Traceback"):
        assert raw not in line
    return line


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_command_shows_what_fire_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = inspect.signature(cli.COMMANDS[name]).parameters.values()
    words = [p for p in parameters if is_word(p)]
    if needed := " ".join(p.name.upper() for p in words if p.default is inspect.Parameter.empty):
        assert said(capsys, name) == (
            f"shardtune: {name}: {needed} is missing; write shardtune {name} {needed} (--help has more)"
        )
    for flag in ("-x", "-", "--", "--frobnicate", "--frobnicate=1"):
        assert said(capsys, name, "x", flag).startswith(f"shardtune: {name}: unknown flag {flag.partition('=')[0]}; ")
    assert "begins with a dash" in said(capsys, name, "-dash.yaml")
    if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        assert said(capsys, name, *["a"] * len(words), "b", "c").partition("got also ")[2].startswith("'b' 'c'")
    assert cli._carry_out([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"shardtune {name}: ")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("train r.yaml", "use shardtune run RECIPE"),
        ("test x", "use shardtune run RECIPE, which evaluates on data.dev and data.test"),
        ("eval x", "--data is missing; write shardtune eval RUN_DIR --data=PATH"),
        ("eval x --data=y --ranks=two", "--ranks takes a number, got 'two'"),
        ("init", "then shardtune check RECIPE"),
        ("merge x", "use shardtune export RUN_DIR --merge-lora"),
        ("resume x", "use shardtune run RUN_DIR"),
        ("rum x", "did you mean run?"),
        ("x.yaml", "use shardtune run x.yaml"),
        ("run --run-dir=x", "RECIPE is missing"),
        ("run x.yaml --run-dir", "--run-dir takes a value, as in --run-dir=DIR"),
        ("predict x --text --model=last", '--text takes a value, as in --text="…"'),
        ("run x.yaml --optim.lr=1", "keys of the recipe have no dashes: optim.lr=1"),
        ("run x.yaml --learning-rate=1", "the key of the recipe is optim.lr"),
        ("run x.yaml --dry-rum", "did you mean --dry-run?"),
        ("status x --json --json", "--json is given twice"),
        ("sweep x.yaml --points=nope.yaml", "nope.yaml: no such file in "),
        ("sweep x.yaml --points=.", "cannot be read: Is a directory"),
        ("status x --json=yes", "--json takes no value, got 'yes'"),
        ("logs x --rank=one", "--rank takes a number, got 'one'"),
        ("doctor --nodes=0", "--nodes takes a number above 0, got '0'"),
    ],
)
def test_what_is_meant_is_said_in_one_line(
    words: str, answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").touch()
    assert answer in said(capsys, *words.split())


def test_every_other_name_is_no_command_and_every_answer_names_commands_that_exist() -> None:
    assert set(OTHER_NAMES) & set(cli.COMMANDS) == set()
    named = {word for answer in OTHER_NAMES.values() for word in re.findall(r"shardtune (\w+)", answer)}
    assert named and named <= set(cli.COMMANDS)


def test_flags_reach_a_command_with_their_values_and_words_in_order() -> None:
    run = cli.COMMANDS["run"]
    assert bind("run", run, ["--dry-run", "x", "a=1", "--run-dir", "d", "b=-1"]) == [
        "x", "a=1", "b=-1", "--dry_run=True", "--run_dir=d",
    ]  # fmt: skip
    assert bind("predict", cli.COMMANDS["predict"], ["r", "--text=-"]) == ["r", "--text=-"]
    assert bind("logs", cli.COMMANDS["logs"], ["-f", "r", "--rank=0"]) == ["r", "--follow=True", "--rank=0"]


@pytest.mark.parametrize("word", ["--version", "-V", "version"])
def test_the_version_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._carry_out([word]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("shardtune ") and line.endswith(str(Path(cli.__file__).resolve().parents[1]))
