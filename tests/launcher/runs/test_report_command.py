"""`shardtune report`: which page comes of which directories."""

from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, ConfigError
from shardtune.launcher.cli import COMMANDS
from shardtune.launcher.runs.report_command import report_runs
from tests.launcher.report.test_page import START, STEP, write_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
        write_run(Path(name), [START, {**STEP, "step": 1}], config_yaml="a: 1\n")
    return [Path("a"), Path("b")]


def test_one_run_has_its_page_in_its_directory_or_where_it_is_wanted(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    report_runs(runs[:1], "html", None)
    report_runs(runs[:1], "html", Path("x.html"))
    assert capsys.readouterr().out == "a/report.html\nx.html\n"
    assert Path("a/report.html").read_text() == Path("x.html").read_text()


def test_several_runs_have_one_page_in_this_folder(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    report_runs(runs, "html", None)
    assert capsys.readouterr().out == "comparison.html\n"
    assert "Comparison of 2 runs" in Path("comparison.html").read_text()


@pytest.mark.parametrize("number", [1, 2])
def test_markdown_is_printed_or_written(runs: list[Path], number: int, capsys: pytest.CaptureFixture[str]) -> None:
    report_runs(runs[:number], "markdown", None)
    printed = capsys.readouterr().out
    assert printed.startswith("## ")
    report_runs(runs[:number], "markdown", Path("x.md"))
    assert capsys.readouterr().out == "x.md\n" and Path("x.md").read_text() == printed


def test_what_cannot_be_reported_is_said_in_a_line(runs: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"^shardtune: --format is html or markdown, got 'pdf'$"):
        report_runs(runs, "pdf", None)
    with pytest.raises(CheckpointError, match=r"^nowhere: not a run directory \(no config.yaml\)$"):
        report_runs([*runs, Path("nowhere")], "html", None)
    with pytest.raises(ConfigError, match=r"--out: there is no folder .*/nowhere$"):
        report_runs(runs, "html", Path("nowhere/x.html"))


def test_the_command_takes_several_directories(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMANDS["report"]("a", "b", format="markdown").perform() == 0
    assert "Comparison of 2 runs" in capsys.readouterr().out
