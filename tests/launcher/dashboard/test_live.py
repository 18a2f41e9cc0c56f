"""Live within two seconds: what lies between a line in metrics.jsonl and the page, counted in looks and messages.

No clock is read: on a busy machine a time says nothing. What is waited for on purpose is added up instead.
"""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.dashboard import app, watch
from shardtune.launcher.dashboard.app import STATIC, Api
from shardtune.launcher.dashboard.watch import Watch
from tests.launcher.dashboard.conftest import BEGIN, START, steps, write_run
from tests.launcher.dashboard.page import append

LIVE_S = 2.0


@pytest.fixture
def followed(tmp_path: Path) -> Watch:
    """A watch whose thread does not run: the test takes its turns."""
    write_run(tmp_path / "run", [BEGIN, START, *steps(3)])
    found = Watch(tmp_path)
    found._find()
    found._poll()
    return found


def milliseconds(script: str, name: str) -> int:
    match = re.search(rf"const {name} = (\d+)", (STATIC / "app" / script).read_text(encoding="utf-8"))
    assert match is not None
    return int(match[1])


def test_all_that_is_waited_for_on_purpose_is_less_than_two_seconds() -> None:
    # A turn of the thread is half of the time between two looks, so a look may be late by that.
    server_s = watch.POLL_S + watch.POLL_S / 2 + app.STREAM_S + app.TICK_S
    page_ms = max(milliseconds("main.js", "REFRESH_MS"), milliseconds("charts/series.js", "COLLECT_MS"))
    assert server_s + page_ms / 1000 < LIVE_S
    # The view of one run asks for its tables and its log a little later; its curves are those of the charts.
    assert milliseconds("run/view.js", "REFRESH_MS") <= 1000


def change_whole(run_dir: Path) -> None:
    """Replaces the file, as a rollback does, by one with fewer steps."""
    draft = run_dir / "draft"
    draft.write_text("".join(f"{json.dumps(event)}\n" for event in [BEGIN, START, *steps(1)]))
    draft.replace(run_dir / "metrics.jsonl")


@pytest.mark.parametrize(
    ("change", "newest"),
    [(lambda run_dir: append(run_dir, steps(1, first=4)), 4), (change_whole, 1)],
    ids=["new line", "rollback"],
)
def test_one_look_sees_it_and_the_next_has_nothing_to_read(
    followed: Watch, tmp_path: Path, change: Callable[[Path], None], newest: int
) -> None:
    (run,) = followed.runs()
    change(tmp_path / "run")
    assert followed._poll() == {run.id}
    step = run.digest.newest("step")
    assert step is not None and step["step"] == newest
    assert followed._poll() == set()


def test_the_stream_sends_it_at_the_first_tick_after_the_pause(
    followed: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = followed.runs()
    ticks: list[float] = []

    async def tick(seconds: float) -> None:
        ticks.append(seconds)
        if len(ticks) == 1:
            append(tmp_path / "run", steps(1, first=4))
            followed._note(followed._poll())

    monkeypatch.setattr(app.asyncio, "sleep", tick)

    async def messages() -> list[Any]:
        stream = Api(followed, lambda: False)._changes()
        return [await anext(stream), await anext(stream)]

    first, second = (json.loads(text.partition("data: ")[2]) for text in asyncio.run(messages()))
    assert (first["changed"], second["changed"]) == ([], [run.id])
    assert ticks == [app.TICK_S] * round(app.STREAM_S / app.TICK_S)
