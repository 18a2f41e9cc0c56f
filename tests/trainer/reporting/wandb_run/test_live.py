"""W&B while a run trains: what it gets, line by line, and that no server holds the training up."""

import json
import os
import queue
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.recipe.load import render_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG, read_events
from shardtune.run_dir.view.plan_file import write_plan
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.reporting.reporter import Reporter, open_reporter
from shardtune.trainer.reporting.wandb_run.choice import choose_wandb
from shardtune.trainer.reporting.wandb_run.keys import Rows
from shardtune.trainer.reporting.wandb_run.live import WandbReporter
from shardtune.trainer.reporting.wandb_run.session import wandb_id
from shardtune.trainer.reporting.wandb_run.upload import upload
from tests.support.retained_run import write_retained_run
from tests.support.tiny import write_encoder  # noqa: F401  torch is imported before the clock runs
from tests.support.wandb_log import history, items, of_kind
from tests.support.wandb_server import wandb_server

RECIPE = "task: {kind: classification}\nmodel: {path: m}\ndata: {train: t}\n"
STEP = {"loss": 0.5, "tokens_per_s": 10.0, "step_time_s": 1.0, "memory_bytes": 7}
ANSWERS = [{"prompt": "Hi", "answer": "<b>", "reference": "Yes."}]


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Without variables of W&B, and with a home of its own for wandb's cache."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    yield


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / CONFIG).write_text(render_recipe(recipe()))
    (folder / "facts.json").write_text(json.dumps({"label_names": ["no", "yes"]}))
    write_plan(folder, {"device": "cuda", "step_s": 1.5})
    return folder


def recipe(*overrides: str) -> Recipe:
    from shardtune.recipe.load import parse_recipe

    return parse_recipe(RECIPE, overrides)


def opened(run_dir: Path, *overrides: str, resumed_step: int = 0) -> Reporter:
    rank_zero = Ranks(0, 1, 0, torch.device("cpu"))
    return open_reporter(recipe(*overrides), run_dir, rank_zero, resumed_step=resumed_step, terminal=None)


def report_two_starts(run_dir: Path) -> None:
    """A start that goes back from step 3 and is killed after it, and one that resumes from step 2 and finishes."""
    first = opened(run_dir, "report.wandb=disabled")
    first.report("begin")
    first.report("start", step=0, lengths={"train": {"edges": [1, 3, 9], "counts": [2, 5]}})
    first.report("eval", split="dev", step=0, loss=1.0, accuracy=0.25, answers=ANSWERS)
    for number in (1, 2, 3):
        first.report("step", step=number, epoch=number / 4, **STEP)
    first.go_back(2)
    first.report("step", step=3, epoch=0.75, **STEP)
    second = opened(run_dir, "report.wandb=disabled", resumed_step=2)
    second.report("begin")
    second.report("environment", versions={"torch": "2"}, git={"commit": "abc", "dirty": True})
    second.report("start", step=2)
    second.report("alert", title="slow", text="rank 1", step=3)
    for number in (3, 4):
        second.report("step", step=number, epoch=number / 4, **STEP)
    second.report("eval", split="dev", step=4, loss=0.5, accuracy=0.75, confusion=[[1, 2], [0, 1]], answers=ANSWERS)
    second.report("time_use", goodput=0.5, useful=3.0)
    second.report("done", step=4, best_step=4, dev={"accuracy": 0.75})


def expected_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl by the pure mapping."""
    rows = Rows()
    found = [rows.add(event["event"], event) for event in read_events(run_dir)]
    return [{**row.values, "_step": row.number, "_timestamp": row.time} for row in found if row is not None]


def test_the_log_has_every_line_of_metrics_jsonl_under_its_key_in_order(run_dir: Path) -> None:
    report_two_starts(run_dir)
    assert upload(run_dir, mode="offline").num_rows == 7
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    lengths, *rows, before_after = history(log)
    assert lengths["_step"] == 0 and lengths["data/lengths_train/values"] == [2, 5]
    expected = expected_rows(run_dir)
    assert len(expected) == len(rows) == 6
    for row, wanted in zip(rows, expected, strict=True):
        assert {key: row.get(key) for key in wanted} == wanted
        others = {key.split("/")[-2 if "/" in key else 0] for key in row.keys() - wanted.keys()}
        assert others <= {"_runtime", "answers", "confusion_table"}
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows}), "in order, none twice"
    assert before_after["samples/before_after/nrows"] == 1


def test_what_is_retained_and_the_worst_rows_are_in_the_log_at_the_end(tmp_path: Path) -> None:
    run_dir = write_retained_run(tmp_path / "retained")
    upload(run_dir, mode="offline")
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    *rows, last = history(log)
    assert (last["retention/table/nrows"], last["samples/worst/nrows"]) == (3, 4)
    assert next(row["retention/news/accuracy"] for row in rows if "retention/news/accuracy" in row) == 0.9
    summary = {key: value for record in of_kind(log, "summary") for key, value in items(record.update).items()}
    assert summary["best/retention/wiki/perplexity"] == pytest.approx(17.4)
    assert summary["retention/news/accuracy"] == {"max": 0.9, "last": pytest.approx(0.7)}
    assert summary["retention/wiki/perplexity"] == {"min": 12.0, "last": 21.0}
    assert summary["eval/dev/kl_to_base"]["last"] == pytest.approx(0.2)


def test_config_has_recipe_plan_and_environment_and_the_summary_what_is_known_at_the_end(run_dir: Path) -> None:
    report_two_starts(run_dir)
    upload(run_dir, mode="offline")
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    (run,) = of_kind(log, "run")
    config = items(run.config.update)
    assert config["optim"]["lr"] == recipe().optim.lr and config["plan"] == {"device": "cuda", "step_s": 1.5}
    changed = {key: value for record in of_kind(log, "config") for key, value in items(record.update).items()}
    assert changed["environment"]["git"] == {"commit": "abc", "dirty": True}
    summary = {key: value for record in of_kind(log, "summary") for key, value in items(record.update).items()}
    assert summary["time/goodput"] == 0.5 and summary["best/dev/accuracy"] == 0.75
    assert summary["eval/dev/accuracy"] == {"max": 0.75, "last": 0.75}
    assert summary["eval/dev/loss"] == {"min": 0.5, "last": 0.5}
    axes = {record.glob_name: record.step_metric for record in of_kind(log, "metric") if record.glob_name}
    assert axes == {"*": "step"}
    (confusion,) = run_dir.glob("wandb/offline-run-*/files/media/table/eval/dev/confusion_table*.json")
    assert json.loads(confusion.read_text())["data"][1] == ["no", "yes", 2]


def test_a_live_start_writes_a_real_log_under_the_names_of_the_environment(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"PROJECT": "p", "NAME": "n", "ENTITY": "e", "RUN_GROUP": "g", "TAGS": "one,2", "NOTES": "why"}
    for name, value in {**names, "MODE": "dryrun"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    reporter = opened(run_dir, "report.job_type=tuning")
    reporter.report("begin")
    reporter.report("step", step=1, epoch=0.5, **STEP)
    reporter.report("alert", title="not saved", text="no room", step=1)
    reporter.report("alert", title="not saved", text="again", step=1)
    reporter.close()
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    (run,) = of_kind(log, "run")
    assert (run.project, run.display_name, run.entity, run.run_group, run.notes, run.job_type) == (
        "p", "n", "e", "g", "why", "tuning",
    )  # fmt: skip
    assert list(run.tags) == ["one", "2"] and run.run_id == wandb_id(run_dir)
    assert [row["train/loss"] for row in history(log)] == [0.5]
    alerts = [(alert.title, alert.text) for alert in of_kind(log, "alert")]
    assert alerts == [("not saved", "no room"), ("the run ended early", "after step 1; RUN_DIR/logs says why")]


def test_the_model_and_the_fingerprints_of_the_data_are_uploaded_on_request(run_dir: Path) -> None:
    (run_dir / CONFIG).write_text(render_recipe(recipe("report.artifacts=[model, data]")))
    report_two_starts(run_dir)
    (run_dir / "export" / "best").mkdir(parents=True)
    (run_dir / "export" / "best" / "config.json").write_text("{}")
    (run_dir / "data_fingerprint").write_text("abc\n{}")
    upload(run_dir, mode="offline")
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    kept = {
        record.type: [entry.path for entry in record.manifest.contents]
        for record in of_kind(log, "artifact")
        if record.type != "run_table"
    }
    assert kept == {"model": ["config.json"], "dataset": ["data_fingerprint"]}


def test_alerts_are_few(run_dir: Path) -> None:
    reporter = opened(run_dir, "report.wandb=offline")
    for number in range(60):
        reporter.report("alert", title=f"trouble {number % 30}", text="x", step=number)
    reporter.report("stopped", step=60, reason="SIGTERM: preempted")
    reporter.close()
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    assert [alert.title for alert in of_kind(log, "alert")] == [
        *(f"trouble {number}" for number in range(20)),
        "the run was stopped",
    ]


def test_a_stop_is_an_alert_and_no_crash(run_dir: Path) -> None:
    reporter = opened(run_dir, "report.wandb=offline")
    reporter.report("begin")
    reporter.report("stopped", step=6, reason="SIGTERM")
    reporter.close()
    (log,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    assert [(alert.title, alert.text) for alert in of_kind(log, "alert")] == [
        ("the run was stopped", "at step 6: SIGTERM")
    ]
    assert [record.exit_code for record in of_kind(log, "exit")] == [0]


def test_a_server_gets_each_row_once_live_and_by_sync(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with wandb_server("good") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        live = opened(run_dir)
        live.report("begin")
        for number in (1, 2):
            live.report("step", step=number, epoch=number / 4, **STEP)
        live.report("alert", title="loss is nan", text="at step 2", step=2)
        live.close()
        assert [row["step"] for row in server.history.values()] == [1, 2]
        assert server.alerts == ["loss is nan", "the run ended early"] and server.exit_code == 1
        later = opened(run_dir, "report.wandb=offline", resumed_step=1)
        later.report("begin")
        for number in (2, 3):
            later.report("step", step=number, epoch=number / 4, **STEP)
        later.report("done", step=3, best_step=3)
        later.close()
        assert upload(run_dir).num_rows == 1
        assert upload(run_dir).num_rows == 0
    assert [(row["_step"], row["step"]) for row in server.history.values()] == [(10, 1), (20, 2), (30, 3)]
    assert server.exit_code == 0 and "the run was restarted" not in server.alerts


def test_a_start_uploads_what_the_one_before_could_not(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with wandb_server("good") as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        for mode, steps in (("offline", (1, 2)), ("online", (3, 4))):
            reporter = opened(run_dir, f"report.wandb={mode}", resumed_step=steps[0] - 1)
            reporter.report("begin")
            for number in steps:
                reporter.report("step", step=number, epoch=number / 4, **STEP)
            reporter.close()
        assert [row["step"] for row in server.history.values()] == [1, 2, 3, 4]
        assert server.alerts == ["the run was restarted", "the run ended early"]


def never_waits(self: queue.Queue[Any], item: Any, block: bool = True, timeout: float | None = None) -> None:
    """`put`, in its place, for those who must not wait."""
    assert not block
    with self.mutex:
        self._put(item)
        self.unfinished_tasks += 1
        self.not_empty.notify()


@pytest.mark.parametrize("mode", ["hangs", "refuses", "fails", "hangs_later"])
def test_no_server_holds_the_training_up_and_nothing_is_lost(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    session = "shardtune.trainer.reporting.wandb_run.session"
    monkeypatch.setattr(f"{session}.ANSWER_S", 1.0)
    monkeypatch.setattr(f"{session}.START_S", 3.0)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    with wandb_server(mode) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        reporter = opened(run_dir)
        with monkeypatch.context() as blocking:
            blocking.setattr(queue.Queue, "put", never_waits)
            for number in range(1, 501):
                reporter.report("step", step=number, epoch=0.5, **STEP)
        reporter.report("done", step=500, best_step=500)
        began = time.monotonic()
        reporter.close()
        assert time.monotonic() - began < 30
    events = read_events(run_dir)
    assert [event["step"] for event in events if event["event"] == "step"] == [*range(1, 501)]
    assert f"shardtune sync {run_dir}" in caplog.text and (run_dir / "wandb_behind").exists()
    logs = [*run_dir.glob("wandb/offline-run-*/run-*.wandb")]
    assert logs or mode == "hangs_later"
    for log in logs:
        assert [row["step"] for row in history(log)] in ([], [*range(1, 501)])


class _Run:
    """A W&B run that hangs, or fails, at its first line."""

    starting_step = 0

    def __init__(self, deed: Any) -> None:
        self.log = self.define_metric = lambda *_, **__: deed()
        self.finish = lambda **_: None


@pytest.mark.parametrize("deed", [lambda: time.sleep(60), lambda: 1 / 0], ids=["hangs", "fails"])
def test_a_wandb_that_hangs_or_fails_does_not_disturb_the_training(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, deed: Any
) -> None:
    settings = type("Settings", (), {"model_fields": (), "__init__": lambda self, **_: None})
    fake = types.SimpleNamespace(init=lambda **_: _Run(deed), Settings=settings, teardown=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    began = time.monotonic()
    reporter = WandbReporter(recipe(), run_dir, choose_wandb(recipe(), run_dir, {}), patience_s=0.3)
    for step in range(20_000):
        reporter.report("step", step=step, loss=0.5)
    reporter.close()
    assert time.monotonic() - began < 30
    assert "W&B" in caplog.text


def test_a_run_directory_has_one_wandb_id(tmp_path: Path) -> None:
    assert wandb_id(tmp_path) == wandb_id(tmp_path)
