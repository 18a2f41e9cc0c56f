"""A headless Chromium for the tests of the dashboard's page, and runs whose curves it draws."""

import importlib.util
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, Playwright, sync_playwright

from shardtune.launcher.dashboard.server import Dashboard
from tests.launcher.dashboard.conftest import BEGIN, START, step, write_run

ROOT = Path(__file__).parents[3]
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
WIDE, PHONE = (1280, 800), (400, 800)
MARKUP = "<img src=x onerror='window.executed=1'><script>window.executed=1</script>"
CONFIG = "task:\n  kind: {kind}\noptim:\n  lr: {lr}\n"


def need(fault: str) -> None:
    """Skips the test if there is a fault; on CI that is a failure, for what nobody has seen run is not known to."""
    if fault:
        (pytest.fail if "CI" in os.environ else pytest.skip)(fault)


def uplot_fault() -> str:
    """Why there are no charts; empty if uPlot is there, or could be fetched now."""
    spec = importlib.util.spec_from_file_location("shardtune_setup", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.provide_uplot())


@contextmanager
def chromium() -> Iterator[Chromium]:
    """A browser; the tests that ask for one are skipped where there is none."""
    need("" if CHROMIUM.exists() else f"there is no {CHROMIUM}")
    need(uplot_fault())
    with sync_playwright() as playwright:
        browser = launch(playwright)
        yield browser
        browser.close()


def launch(playwright: Playwright) -> Chromium:
    return playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)


def write_runs(root: Path) -> None:
    """Three runs: one of lr 0.1 with samples that hold markup, one of lr 0.2 that is finished, and an empty one."""
    answers = [{"prompt": f"a prompt {MARKUP}", "answer": f"an answer {MARKUP}", "reference": "a reference"}]
    dev = {"event": "eval", "split": "dev", "time": 1300.0, "accuracy": 0.75, "loss": 0.5, "answers": answers}
    first = [BEGIN, START, *curve(200), {**dev, "step": 100}, {**dev, "step": 200, "accuracy": 0.875}]
    write_run(root / "first", first, CONFIG.format(kind="chat", lr=0.1))
    done = {"event": "done", "time": 1500.0, "step": 100, "best_step": 100}
    write_run(
        root / "second",
        [BEGIN, START, *curve(100, height=2.0), {**dev, "step": 100}, done],
        CONFIG.format(kind="chat", lr=0.2),
        results={"step": 100, "best_step": 100},
    )
    write_run(root / f"third {MARKUP.replace('/', '')}", [], CONFIG.format(kind="chat", lr=0.3))
    (root / "first" / "logs" / "rank-0.log").write_text(f"the last words {MARKUP}\n")


def curve(count: int, first: int = 1, height: float = 1.0) -> list[dict[str, Any]]:
    """`step` events whose loss falls, and whose peak memory stays."""
    return [step(n, loss=height / n**0.5, lr=0.1, memory_bytes=2**30) for n in range(first, first + count)]


def append(run_dir: Path, events: list[dict[str, Any]]) -> None:
    """Adds lines to a run's metrics.jsonl, as the trainer does."""
    with (run_dir / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(f"{json.dumps(event)}\n" for event in events))


@dataclass
class Visit:
    """A page of a dashboard in a browser, and what it complained of and asked for."""

    page: Page
    dashboard: Dashboard
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda message: self._complain(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(self.dashboard.url)
        self.page.wait_for_selector("tr[id^=run-]")

    def _complain(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def show(self, address: str) -> None:
        """Opens this part of the address after #."""
        self.page.goto(f"http://127.0.0.1:{self.dashboard.port}/#{address}")

    def points(self, metric: str) -> int:
        """The points that a chart draws, as soon as it draws any."""
        selector = f".panel[data-metric='{metric}']:visible"
        self.page.locator(selector).first.scroll_into_view_if_needed()
        self.page.wait_for_selector(f"{selector}[data-points]:not([data-points='0']) canvas")
        return int(self.page.get_attribute(selector, "data-points") or 0)

    def wait_for_points(self, metric: str, count: int) -> None:
        self.page.wait_for_selector(f".panel[data-metric='{metric}'][data-points='{count}']")

    def id_of(self, name: str) -> str:
        """The id of the run of this name."""
        found = self.page.evaluate("name => shardtune.data.runs.find((run) => run.name.startsWith(name)).id", name)
        return str(found)

    def row(self, name: str) -> str:
        """The selector of a run's row in the table."""
        return f"[id='run-{self.id_of(name)}']"

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


PAINTED = """selector => {
  const canvas = document.querySelector(selector + ' canvas');
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  const colors = new Set();
  for (let i = 0; i < pixels.length; i += 4) if (pixels[i + 3] > 200) {
    const [r, g, b] = pixels.slice(i, i + 3);
    if (Math.max(r, g, b) - Math.min(r, g, b) > 50) colors.add(`${r},${g},${b}`);
  }
  return [...colors];
}"""
"""The colors on a chart, those of its lines: axes, labels and grid are gray."""
