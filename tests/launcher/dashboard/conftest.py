"""What the tests of the dashboard stand in: no Slurm, and small run directories that are written by hand."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from shardtune.launcher.dashboard.server import Dashboard

START = {"event": "start", "step": 0, "num_steps": 1000, "world_size": 2, "device": "cpu", "time": 1010.0}
BEGIN = {"event": "begin", "job": None, "process_began": 1000.0, "time": 1005.0}
TIMES = {
    "step_time_s": 2.0,
    "data_wait_s": 0.25,
    "lost_share": 0.125,
    "padding_efficiency": 0.75,
    "tokens_per_s": 64.0,
    "eta_s": 60.0,
}


@pytest.fixture(autouse=True)
def no_slurm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for programs of a test, which is the whole PATH."""
    programs = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", str(programs))
    return programs


def step(number: int, **values: Any) -> dict[str, Any]:
    """The `step` event of a step that ends two seconds after the one before it."""
    return {"event": "step", "time": 1010.0 + 2 * number, "step": number, "epoch": number / 100, **TIMES, **values}


def steps(count: int, first: int = 1) -> list[dict[str, Any]]:
    """`step` events whose loss is one over the step."""
    return [step(number, loss=1 / number) for number in range(first, first + count)]


def text_of(events: Sequence[Any]) -> str:
    """The events as lines; those that are texts stay as they are."""
    return "".join(event if isinstance(event, str) else f"{json.dumps(event)}\n" for event in events)


def write_run(run_dir: Path, events: Sequence[Any], config: str = "optim:\n  lr: 0.1\n", **files: Any) -> Path:
    """A run directory with these events, recipe, and JSON files (results=…)."""
    (run_dir / "logs").mkdir(parents=True, exist_ok=True)
    (run_dir / "config.yaml").write_text(config)
    (run_dir / "metrics.jsonl").write_text(text_of(events), encoding="utf-8")
    for name, value in files.items():
        (run_dir / f"{name}.json").write_text(json.dumps(value))
    return run_dir


@dataclass
class Browser:
    """Sends requests to a dashboard."""

    dashboard: Dashboard

    def ask(self, path: str, method: str = "GET", **headers: str | None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer. The token is sent; a header that is None is not."""
        given = {"Host": f"127.0.0.1:{self.dashboard.port}", "X-Shardtune-Token": self.dashboard.token}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[misc]
        connection = http.client.HTTPConnection("127.0.0.1", self.dashboard.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        for name, value in given.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, body

    def get(self, path: str, **query: Any) -> Any:
        """The JSON of an answer that is not an error."""
        names = {name.removesuffix("_"): value for name, value in query.items()}
        status, _, body = self.ask(f"{path}?{urlencode(names, doseq=True)}")
        assert status == 200, body
        return json.loads(body)

    def runs(self) -> dict[str, Any]:
        """The rows of the table by path."""
        return {run["path"]: run for run in self.get("/api/runs")["runs"]}


@pytest.fixture
def open_dashboard() -> Iterator[Callable[[Path], Browser]]:
    """Serves a folder until the end of the test."""
    opened = []

    def open_one(root: Path) -> Browser:
        context = (dashboard := Dashboard(root, None)).serving()
        context.__enter__()
        opened.append(context)
        return Browser(dashboard)

    yield open_one
    for context in opened:
        context.__exit__(None, None, None)


def eventually(holds: Callable[[], bool], within_s: float = 20.0) -> bool:
    """Whether something becomes true in this time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.05)
    return False


DAMAGED = (
    '{"event": "step", "time": 1.0, "step": 3, "loss"\n', '{"event": "step", "time": "x", "step": 3}\n', "[1]\n",
    '{"event": "step", "time": 1.0}\n', "null\n", '{"event": 3, "time": 1.0}\n', '{"event": "eval", "time": NaN}\n',
    '{"event": "eval"}\n', "\x00\x01\n", '{"event": "step", "time": 1.0, "step": true}\n', "[" * 10_000 + "\n",
)  # fmt: skip
"""Lines that are no events."""
