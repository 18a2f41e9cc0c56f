"""What the page is told of runs, over HTTP, while they go on."""

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtune.errors import ConfigError, LaunchError
from shardtune.launcher.commands.dashboard import dashboard as dashboard_command
from shardtune.launcher.dashboard import app
from shardtune.launcher.dashboard.read.run import Run
from shardtune.launcher.dashboard.server import Dashboard, listen
from shardtune.launcher.runs.monitor import look_at
from shardtune.run_dir.files import read_events
from shardtune.run_dir.lease import take_lease
from shardtune.run_dir.view.time_use import time_use
from tests.launcher.dashboard.conftest import BEGIN, START, Browser, eventually, step, steps, text_of, write_run

Open = Callable[[Path], Browser]
DEV = {"event": "eval", "split": "dev", "time": 1031.0, "step": 10, "loss": 0.5, "accuracy": 0.75, "confusion": [[1]]}


def test_the_table_has_what_is_known_of_each_run(tmp_path: Path, open_dashboard: Open) -> None:
    later = {**DEV, "step": 20, "time": 1051.0, "loss": 0.625, "accuracy": 0.5}
    config = "task:\n  kind: chat\nmodel:\n  path: org/m\noptim:\n  lr: {}\n  betas: [0.9, 0.999]\n"
    events = [BEGIN, START, *steps(10), DEV, *steps(10, 11), later]
    write_run(tmp_path / "sweep" / "0", events, config.format(0.1))
    write_run(tmp_path / "b", [BEGIN, START, {**BEGIN, "time": 1011.0}, START, step(1, loss=None)], config.format(0.2))
    (tmp_path / "b" / "checkpoints" / "step-5").mkdir(parents=True)
    browser = open_dashboard(tmp_path)
    table = browser.get("/api/runs")
    assert (table["root"], table["recipe_keys"]) == (str(tmp_path), ["optim.lr"])
    names = {metric["name"]: (metric["group"], metric["runs"]) for metric in table["metrics"]}
    assert names["train/loss"] == ("train", 2) and names["dev/accuracy"] == ("eval", 1)
    assert names["perf/tokens_per_s"][0] == "perf" and names["data/padding_efficiency"][0] == "data"
    runs = browser.runs()
    row, other = runs["sweep/0"], runs["b"]
    assert (row["name"], row["step"], row["steps"], row["ranks"], row["model"]) == ("sweep/0", 20, 1000, 2, "org/m")
    assert (row["started"], row["updated"], row["tokens"]) == (1005.0, 1051.0, 20 * 128)
    assert row["last"]["dev/accuracy"] == 0.5 and row["last"]["train/loss"] == 1 / 20
    assert row["best"]["dev/accuracy"] == {"value": 0.75, "step": 10, "higher_is_better": True}
    assert row["best"]["dev/loss"] == {"value": 0.5, "step": 10, "higher_is_better": False}
    assert row["goodput"] == pytest.approx(time_use(read_events(tmp_path / "sweep" / "0")).goodput)
    assert (other["restarts"], other["checkpoints"], other["last"]["train/loss"]) == (1, 1, "nan")
    assert (row["recipe"], other["recipe"]) == ({"optim.lr": 0.1}, {"optim.lr": 0.2})


def test_a_series_is_the_file_on_every_axis(tmp_path: Path, open_dashboard: Open) -> None:
    write_run(tmp_path / "a", [BEGIN, START, *steps(10), DEV, *steps(5, 11)])
    browser = open_dashboard(tmp_path)
    (row,) = browser.runs().values()

    def x_and_y(metric: str, **query: Any) -> tuple[list[float], list[float]]:
        (series,) = browser.get("/api/series", run=row["id"], metric=metric, **query)["series"]
        assert (series["run"], series["metric"]) == (row["id"], metric)
        return series["x"], series["y"]

    losses = [1 / number for number in range(1, 16)]
    assert x_and_y("train/loss") == ([float(number) for number in range(1, 16)], losses)
    assert x_and_y("train/loss", x="time")[0] == [1010.0 + 2 * number - 1005 for number in range(1, 16)]
    assert x_and_y("train/loss", x="tokens")[0] == [128.0 * number for number in range(1, 16)]
    assert x_and_y("train/loss", x="epoch")[0] == [number / 100 for number in range(1, 16)]
    assert x_and_y("dev/accuracy") == ([10.0], [0.75])
    assert x_and_y("dev/accuracy", x="tokens")[0] == [1280.0]
    assert x_and_y("train/loss", from_=4, to=6) == ([3.0, 4.0, 5.0, 6.0, 7.0], losses[2:7])
    both = browser.get("/api/series", run=row["id"], metric=["train/loss", "dev/none", "train/none"])["series"]
    assert [series["metric"] for series in both] == ["train/loss"]


@pytest.mark.parametrize(
    "query", ["", "run=x", "metric=train/loss", "run={}&metric=a&x=day", "run={}&metric=a&points=1",
              "run={}&metric=a&from=nan", "run={}&metric=a&to=x", "run=x&metric=a"]
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_refused_in_one_sentence(
    query: str, tmp_path: Path, open_dashboard: Open
) -> None:
    write_run(tmp_path / "a", [BEGIN])
    browser = open_dashboard(tmp_path)
    (row,) = browser.runs().values()
    status, _, body = browser.ask(f"/api/series?{query.format(row['id'])}")
    assert status in (400, 404) and json.loads(body)["error"]


def test_states_are_those_of_status(tmp_path: Path, open_dashboard: Open) -> None:
    stopped = {"event": "stopped", "time": 1040.0, "step": 3, "reason": "SIGTERM"}
    write_run(tmp_path / "new", [])
    write_run(tmp_path / "lost", [BEGIN, START, *steps(3)])
    write_run(tmp_path / "stopped", [BEGIN, START, *steps(3), stopped])
    write_run(tmp_path / "finished", [BEGIN, START, *steps(3)], results={"step": 3})
    failed = write_run(tmp_path / "failed", [BEGIN, START, *steps(3)])
    failure = {"rank": 1, "host": "vm", "time": 1020.0, "code": 1, "text": "KeyError: 3\n"}
    (failed / "logs" / "rank-1.failure.json").write_text(json.dumps(failure))
    lease = take_lease(write_run(tmp_path / "running", [BEGIN, START, *steps(3)]) / "lease.json")
    submitted = {"job": "7", "submitted": 1.0}
    write_run(tmp_path / "in_slurm", [BEGIN, START, *steps(3)], submission=submitted)
    browser = open_dashboard(tmp_path)
    try:
        assert eventually(lambda: browser.runs()["in_slurm"]["state"] == "crashed")
        names = {"failed": "crashed", "lost": "crashed"}
        for path, row in browser.runs().items():
            status = look_at(tmp_path / path)
            assert (row["state"], row["why"] or "") == (names.get(status.state, status.state), status.why)
            assert row["step"] == status.step
        states = {path: row["state"] for path, row in browser.runs().items()}
    finally:
        lease.leave()
    assert states == {
        "new": "new", "lost": "crashed", "stopped": "stopped", "finished": "finished", "failed": "crashed",
        "running": "running", "in_slurm": "crashed",
    }  # fmt: skip


def test_the_page_is_told_of_a_new_line_a_rollback_a_new_run_and_one_that_is_gone(
    tmp_path: Path, open_dashboard: Open
) -> None:
    run_dir = write_run(tmp_path / "a", [BEGIN, START, *steps(5)])
    browser = open_dashboard(tmp_path)
    (row,) = browser.runs().values()
    stream = http.client.HTTPConnection("127.0.0.1", browser.dashboard.port, timeout=20)
    stream.request("GET", "/api/stream", headers={"X-Shardtune-Token": browser.dashboard.token})
    answer = stream.getresponse()

    def told(kind: str, name: str) -> bool:
        for _ in range(1000):
            line = answer.readline()
            if line.startswith(b"data: ") and name in json.loads(line[6:])[kind]:
                return True
        return False

    def losses() -> Any:
        (series,) = browser.get("/api/series", run=row["id"], metric="train/loss")["series"]
        return series["y"]

    assert losses() == [1 / number for number in range(1, 6)]
    whole = json.dumps(step(6, loss=0.25))
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(whole[:40])
    assert losses() == [1 / number for number in range(1, 6)], "half a line is no event"
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(whole[40:] + "\n")
    assert told("changed", row["id"]) and eventually(lambda: browser.runs()["a"]["step"] == 6)
    assert losses()[-1] == 0.25
    (run_dir / "new").write_text(text_of([BEGIN, START, *steps(2), step(3, loss=9.0)]))
    (run_dir / "new").replace(run_dir / "metrics.jsonl")
    assert eventually(lambda: browser.runs()["a"]["step"] == 3)
    assert losses() == [1.0, 0.5, 9.0]
    (run_dir / "metrics.jsonl").write_text(text_of([BEGIN, START, step(1, loss=4.0)]))
    assert eventually(lambda: browser.runs()["a"]["step"] == 1)
    assert losses() == [4.0]
    write_run(tmp_path / "b", [BEGIN])
    assert eventually(lambda: "b" in browser.runs())
    for path in sorted(run_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run_dir.rmdir()
    assert told("gone", row["id"]) and list(browser.runs()) == ["b"]
    assert browser.ask(f"/api/runs/{row['id']}")[0] == 404
    stream.close()


def test_what_is_shown_of_one_run(tmp_path: Path, open_dashboard: Open) -> None:
    answers = [{"prompt": "<b>\u2028\x85\0", "reference": "r", "answer": answer} for answer in ("one", "two")]
    events = [
        BEGIN, START, {**DEV, "step": 0, "answers": answers[:1]},
        step(1, loss=1.0, slowest_rank=1, slowest_host="n1", slowest_gpu=0, memory_bytes=2e9),
        {"event": "alert", "time": 1013.0, "step": 1, "title": "loss spike", "text": "9 deviations"},
        {"event": "checkpoint", "time": 1014.0, "step": 1, "num_bytes": 99},
        {**DEV, "answers": answers[1:]}, {"event": "stopped", "time": 1032.0, "step": 1, "reason": "SIGTERM"},
        {**BEGIN, "time": 1040.0}, {**START, "step": 1, "time": 1041.0, "hosts": ["n1", "n2"]},
    ]  # fmt: skip
    run_dir = write_run(tmp_path / "a", events, results={"best_step": 1}, plan={"ranks": 2})
    (run_dir / "checkpoints" / "step-1").mkdir(parents=True)
    (run_dir / "logs" / "rank-1.failure.json").write_text('{"rank": 1, "host": "n1", "time": 5.0, "text": "KeyError"}')
    browser = open_dashboard(tmp_path)
    (row,) = browser.runs().values()
    shown = browser.get(f"/api/runs/{row['id']}")
    assert (shown["recipe_yaml"], shown["plan"], shown["results"]) == (
        "optim:\n  lr: 0.1\n", {"ranks": 2}, {"best_step": 1},
    )  # fmt: skip
    assert [fault["text"] for fault in shown["faults"]] == [
        "rank 1 on n1 failed: KeyError", "loss spike: 9 deviations",
    ]  # fmt: skip
    assert shown["restarts"] == [{"time": 1041.0, "text": "started again at step 1; stopped before: SIGTERM"}]
    assert shown["checkpoints"] == [{"step": 1, "time": 1014.0, "bytes": 99, "best": True}]
    assert [(sample["step"], sample["source"], sample["output"]) for sample in shown["samples"]] == [
        (0, "<b>\u2028\x85\0", "one"), (10, "<b>\u2028\x85\0", "two"),
    ]  # fmt: skip
    assert shown["rank_speed"] == [{"rank": 1, "host": "n1", "share": 0.125}]
    assert shown["memory"]["host_gb"] == 2.0 and shown["environment"]["world_size"] == 2
    assert shown["environment"]["hosts"] == ["n1", "n2"]
    assert sum(use["share"] for use in shown["time_use"]) == pytest.approx(1.0)


def test_many_long_runs_are_shown_at_once_by_their_ends_and_over_each_other_by_their_overviews(
    tmp_path: Path, open_dashboard: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "MOST_READ", 2**19)
    body = text_of([BEGIN, START, *steps(5000)])
    for number in range(50):
        write_run(tmp_path / f"run-{number}", [body])
    began = time.monotonic()
    browser = open_dashboard(tmp_path)
    assert eventually(lambda: [row["step"] for row in browser.runs().values()] == [5000] * 50)
    assert time.monotonic() - began < 20, "the ends of the files are enough for the table"
    ids = [row["id"] for row in browser.runs().values()]
    first = browser.get("/api/series", run=ids, metric="train/loss", points=100)
    whole = [series for series in first["series"] if not series["coarse"]]
    assert whole and [series["count"] for series in whole] == [5000] * len(whole)
    assert len(first["series"]) + len(first["pending"]) == 50 and len(whole[0]["x"]) <= 100
    assert eventually(lambda: all(row["is_whole"] for row in browser.get("/api/runs")["runs"]), within_s=120)
    use = time_use([BEGIN, START, *steps(5000)])
    assert {round(row["goodput"], 9) for row in browser.runs().values()} == {round(use.goodput or 0, 9)}
    assert {row["tokens"] for row in browser.runs().values()} == {5000 * 128}
    overlaid = browser.get("/api/series", run=ids, metric="train/loss")["series"]
    assert len(overlaid) == 50 and {max(series["y"]) for series in overlaid} == {1.0}
    assert [series["coarse"] for series in overlaid] == [False] + 49 * [True]
    assert {series["count"] for series in overlaid} == {5000}


def test_ctrl_c_ends_it_at_once_with_a_stream_open(tmp_path: Path) -> None:
    dashboard = Dashboard(tmp_path, None)
    with dashboard.serving():
        stream = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=20)
        stream.request("GET", "/api/stream", headers={"X-Shardtune-Token": dashboard.token})
        assert stream.getresponse().readline() == b"event: runs\n"
        began = time.monotonic()
    assert time.monotonic() - began < 10
    with pytest.raises(OSError):
        http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=1).connect()


def test_a_folder_without_runs_is_opened_and_what_is_no_folder_is_refused(
    tmp_path: Path, open_dashboard: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert open_dashboard(tmp_path).get("/api/runs")["runs"] == []
    (tmp_path / "file").touch()
    for name, message in (("file", "is not a folder"), ("none", "no such folder")):
        with pytest.raises(LaunchError, match=message):
            dashboard_command(str(tmp_path / name)).perform()
    with pytest.raises(ConfigError, match="--port takes a number from 1 to 65535, got 'x'"):
        dashboard_command(str(tmp_path), port="x")


def test_one_run_that_cannot_be_read_ends_nothing(
    tmp_path: Path, open_dashboard: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look(run: Run) -> bool:
        if run.path.name == "bug":
            raise ZeroDivisionError("here")
        return whole_look(run)

    whole_look = Run.look
    monkeypatch.setattr(Run, "look", look)
    for name in ("a", "bug", "damaged", "folder"):
        write_run(tmp_path / name, [BEGIN, START, *steps(3)])
    (tmp_path / "damaged" / "results.json").write_text('{"step"')
    (tmp_path / "folder" / "metrics.jsonl").unlink()
    (tmp_path / "folder" / "metrics.jsonl").mkdir()
    browser = open_dashboard(tmp_path)
    assert eventually(lambda: browser.runs()["folder"]["state"] == "unreadable")
    states = {path: (row["state"], row["why"]) for path, row in browser.runs().items()}
    assert states["bug"] == ("unreadable", "a bug of shardtune: ZeroDivisionError: here")
    assert states["damaged"][0] == "unreadable" and "is damaged" in states["damaged"][1]
    assert states["folder"][1].startswith("metrics.jsonl cannot be read: ")
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write(text_of([step(4, loss=1.0)]))
    assert eventually(lambda: browser.runs()["a"]["step"] == 4)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_port_that_is_taken_is_said_and_without_one_the_next_is_used() -> None:
    first = listen(None)
    second = listen(None)
    ports = [taken.getsockname()[1] for taken in (first, second)]
    assert ports[0] != ports[1]
    with pytest.raises(LaunchError, match=rf"--port={ports[0]}: Address already in use"):
        listen(ports[0])
    first.close()
    second.close()


def test_a_slurm_that_hangs_holds_up_nobody(tmp_path: Path, open_dashboard: Open, no_slurm: Path) -> None:
    (no_slurm / "squeue").write_text("#!/bin/sh\nexec /bin/sleep 15\n")
    (no_slurm / "squeue").chmod(0o755)
    write_run(tmp_path / "here", [BEGIN, START, *steps(3)])
    write_run(tmp_path / "there", [BEGIN, START, *steps(3)], submission={"job": "7", "submitted": 1.0})
    browser = open_dashboard(tmp_path)
    runs = browser.runs()
    assert (runs["here"]["state"], runs["there"]["state"]) == ("crashed", "waiting")
    assert runs["there"]["why"] == "Slurm has not answered yet"
    assert np.isfinite(runs["there"]["step"])
