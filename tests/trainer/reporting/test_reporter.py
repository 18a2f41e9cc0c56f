"""metrics.jsonl is authoritative; W&B is best effort and never stops a training."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.reporter import (
    JsonlReporter,
    NullReporter,
    TerminalReporter,
    open_reporter,
)
from tests.support.runs import tiny_recipe, train

STEP = {"step": 1, "loss": 0.5}


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return tiny_recipe(tmp_path, "report.wandb=auto")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ranks_above_0_report_nothing(tmp_path: Path, recipe: Recipe) -> None:
    rank_one = Ranks(1, 2, 1, torch.device("cpu"))
    assert isinstance(open_reporter(recipe, tmp_path, rank_one, resumed_step=0, terminal=None), NullReporter)
    assert not list(tmp_path.iterdir())


def test_an_event_is_on_disk_as_soon_as_it_is_reported(tmp_path: Path) -> None:
    reporter = JsonlReporter(tmp_path / "m.jsonl", 0)
    reporter.report("step", **STEP)
    assert lines(tmp_path / "m.jsonl")[0].items() >= {"event": "step", **STEP}.items()


def test_nan_and_infinity_become_null_because_json_has_neither(tmp_path: Path) -> None:
    JsonlReporter(tmp_path / "m.jsonl", 0).report("step", step=1, loss=math.nan, grad_norm=math.inf)
    assert lines(tmp_path / "m.jsonl")[0].items() >= {"loss": None, "grad_norm": None}.items()


def test_a_resumed_run_drops_the_lines_of_steps_that_it_will_do_again(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    reporter = JsonlReporter(path, 0)
    for step in range(1, 6):
        reporter.report("step", step=step, loss=1.0)
    with path.open("a") as file:
        file.write('{"event": "step", "st')  # killed while writing
    JsonlReporter(path, 3).report("step", step=4, loss=2.0)
    steps = [line for line in lines(path) if line["event"] == "step"]
    assert [(line["step"], line["loss"]) for line in steps] == [(1, 1.0), (2, 1.0), (3, 1.0), (4, 2.0)]


@pytest.mark.parametrize("bad", [b"\x00" * 512, b"\xff\xfe", b"[1]", b'{"step": 1}', b'{"event": "step", "ti'])
def test_a_run_resumes_although_its_file_has_lines_that_are_no_events(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "m.jsonl"
    JsonlReporter(path, 0).report("step", step=1, text="a\u2028b\x85c")
    with path.open("ab") as file:
        file.write(bad + b"\n")
    JsonlReporter(path, 3).report("step", step=2)
    assert [line["step"] for line in map(json.loads, path.read_bytes().splitlines())] == [1, 2]


def test_the_time_of_dropped_steps_is_kept_and_never_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    reporter = JsonlReporter(path, 0)
    for step in (10, 20, 30):
        reporter.report("step", step=step, loss=1.0, step_time_s=0.5)
    reporter.go_back(20)
    JsonlReporter(path, 5)
    lost = [line for line in lines(path) if line["event"] == "lost"]
    assert [(line["step"], line["num_steps"], line["seconds"]) for line in lost] == [(20, 10, 5.0), (5, 15, 7.5)]
    assert len(lines(path)) == 2


def test_a_run_that_is_rolled_back_drops_the_lines_of_later_steps(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    reporter = JsonlReporter(path, 0)
    for step in range(1, 6):
        reporter.report("step", step=step, loss=1.0)
    reporter.report("alert", title="a", text="b", step=5)
    reporter.go_back(3)
    reporter.report("step", step=4, loss=2.0)
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 5, 3, 4]
    assert [line["event"] for line in lines(path)] == ["step", "step", "step", "alert", "lost", "step"]


def test_an_alert_is_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    JsonlReporter(path, 0).report("alert", title="a", text="b", step=5)
    JsonlReporter(path, 3).report("step", **STEP)
    assert [line["event"] for line in lines(path)] == ["alert", "step"]


def test_lines_wait_while_the_disk_is_full_and_are_whole_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m.jsonl"
    reporter = JsonlReporter(path, 0)
    reporter.report("step", step=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))  # ends within the next line
        reporter.report("step", step=2)
        reporter.report("step", step=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "its lines are kept in memory" in caplog.text
    reporter.report("step", step=4)
    assert [line["step"] for line in lines(path)] == [1, 2, 3, 4]


def test_the_terminal_shows_an_alert(tmp_path: Path) -> None:
    with (tmp_path / "terminal").open("w+") as terminal:
        TerminalReporter(terminal).report("alert", title="not saved", text="no [room]", step=3)
        terminal.seek(0)
        assert terminal.read().splitlines()[-1] == "WARNING: not saved: no [room]"


def test_a_step_event_has_all_that_a_dashboard_needs(tiny: Path, tmp_path: Path) -> None:
    events = train(tiny_recipe(tiny), tmp_path, world_size=2)[1]
    step = [event for event in events if event["event"] == "step"][-1]
    rates = ["tokens_per_s", "samples_per_s", "step_time_s", "memory_bytes"]
    assert all(step[key] > 0 for key in [*rates, "loss", "lr", "grad_norm", "epoch"])
    assert 0.5 < step["padding_efficiency"] <= 1
    assert 0 < step["data_wait_s"] < step["step_time_s"]
    assert step["eta_s"] == 0


def test_no_secret_of_the_environment_or_of_a_url_is_reported(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "open-sesame")
    rank_zero = Ranks(0, 1, 0, torch.device("cpu"))
    quiet = recipe.model_copy(update={"report": recipe.report.model_copy(update={"wandb": "disabled"})})
    reporter = open_reporter(quiet, tmp_path, rank_zero, resumed_step=0, terminal=None)
    reporter.report("alert", title="open-sesame", text="https://me:sesame@host refused", step=1)
    reporter.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "sesame" not in text and "https://***@host refused" in text
