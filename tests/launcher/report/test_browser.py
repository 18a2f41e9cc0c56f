"""The pages in a browser: curves that zoom, nothing that is asked of anybody, nothing wider than the window."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from shardtune.launcher.report.comparison import compare_runs, render_comparison
from shardtune.launcher.report.page import write_report
from shardtune.launcher.report.record import read_record
from tests.launcher.report.test_page import EVAL, START, STEP, write_run
from tests.support.browser import showing

NUM_STEPS, SPIKE = 6_000, 4_321
CONFIG = """\
task: {kind: classification}
model: {path: /m}
data: {train: /rows/a.csv, dev: {fraction: 0.05}}
"""
HOSTILE = "<script>document.title = 'run'</script><img src=x onerror=alert(1)> \x00 \x85 \u2028 用户 \u202e \ud800"


def step(number: int) -> dict[str, Any]:
    loss = 9.0 if number == SPIKE else 2 * math.exp(-number / 2000) + 0.1 * math.sin(number)
    return {**STEP, "step": number, "epoch": number / 2000, "loss": loss, "step_time_s": 0.5, "lr": 1e-4}


def evaluation(number: int, **more: Any) -> dict[str, Any]:
    shown = {"prompt": HOSTILE, "answer": HOSTILE * 20, "reference": "一二三" * 300}
    return {**EVAL, "step": number, "accuracy": 0.5 + number / NUM_STEPS / 2, "answers": [shown], **more}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    events = [START]
    for number in range(1, NUM_STEPS + 1):
        events.append(step(number))
        if number % 1000 == 0:
            events.append(evaluation(number))
    confusion = [[at * other for other in range(24)] for at in range(1, 25)]
    results = {"step": NUM_STEPS, "best_step": NUM_STEPS, "dev": {"accuracy": 1.0, "confusion": confusion}}
    names = {"label_names": [f"label number {number}" for number in range(24)]}
    folder = tmp_path_factory.mktemp("run")
    files = {"results_json": json.dumps(results), "facts_json": json.dumps(names)}
    return write_report(write_run(folder, events, config_yaml=CONFIG, **files))


def polyline(page: Page, chart: int) -> list[tuple[float, float]]:
    """The points of the first line of a chart."""
    points = page.locator("#charts .chart").nth(chart).locator("polyline").first.get_attribute("points")
    assert points is not None
    return [(float(x), float(y)) for x, _, y in (pair.partition(",") for pair in points.split())]


def axis(page: Page, chart: int) -> list[str]:
    """The numbers along the x axis of a chart."""
    texts = page.locator("#charts .chart").nth(chart).locator("text[text-anchor=middle]")
    return texts.all_text_contents()


def drag(page: Page, chart: int, begin: float, end: float) -> None:
    """Drags over the chart between two parts of its width."""
    svg = page.locator("#charts .chart svg").nth(chart)
    svg.scroll_into_view_if_needed()
    box = svg.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + begin * box["width"], box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_asks_for_nothing_complains_of_nothing_and_fits(
    browser: Browser, report: Path, width: int, scheme: str
) -> None:
    with showing(browser, report, width=width, scheme=scheme) as seen:
        assert seen.page.locator("#charts polyline").count() >= 8
        drag(seen.page, 0, 0.3, 0.5)
        assert seen.overflow == 0
        assert seen.complaints == [] and seen.requests == []
        assert seen.page.title() == report.parent.name, "the script in an answer has run"


def test_a_request_and_an_error_would_be_seen(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'><script>nothing.here</script><p style='width: 3000px'>x</p>")
    with showing(browser, path) as seen:
        assert seen.requests and seen.complaints and seen.overflow > 0


def test_a_script_that_is_not_ours_would_not_run(browser: Browser, report: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.html"
    text = report.read_text(encoding="utf-8")
    path.write_text(text.replace("</main>", "<script>document.title = 'run'</script></main>"), encoding="utf-8")
    with showing(browser, path) as seen:
        assert seen.page.title() != "run" and seen.complaints


def test_dragging_zooms_all_charts_and_a_double_click_shows_the_whole(browser: Browser, report: Path) -> None:
    with showing(browser, report) as seen:
        page = seen.page
        whole, lr = polyline(page, 0), polyline(page, 2)
        assert axis(page, 0)[-1] == "6000"
        drag(page, 0, 0.6, 0.8)
        assert page.locator("#chart-reset").is_enabled()
        assert int(axis(page, 0)[0]) > 2000 and int(axis(page, 0)[-1]) < 5000 and axis(page, 2) == axis(page, 0)
        assert polyline(page, 0) != whole
        page.locator("#charts .chart svg").nth(1).dblclick()
        assert polyline(page, 0) == whole and polyline(page, 2) == lr
        assert page.locator("#chart-reset").is_disabled()


def test_the_values_under_the_pointer_are_named(browser: Browser, report: Path) -> None:
    with showing(browser, report) as seen:
        page = seen.page
        page.locator("#charts .chart svg").first.scroll_into_view_if_needed()
        left, right = 58 / 440, 1 - 14 / 440
        box = page.locator("#charts .chart svg").first.bounding_box()
        assert box is not None
        at = left + SPIKE / NUM_STEPS * (right - left)
        page.mouse.move(box["x"] + at * box["width"], box["y"] + box["height"] / 2)
        assert "each step 9" in page.locator("#charts .chart .tip").inner_text()
        page.mouse.move(0, 0)
        assert page.locator(".tip").count() == 0


def test_axes_smoothing_and_scale_change_what_is_drawn(browser: Browser, report: Path) -> None:
    with showing(browser, report) as seen:
        page = seen.page
        assert page.locator("#chart-axis option").all_inner_texts() == ["step", "tokens", "hours of training", "epoch"]
        page.select_option("#chart-axis", "epoch")
        assert axis(page, 0)[-1] == "3"
        page.select_option("#chart-axis", "tokens")
        assert axis(page, 0)[-1] == "2M"  # of 2.7: 900 tokens a second, half a second a step
        page.select_option("#chart-axis", "step")
        lines = page.locator("#charts .chart").first.locator("polyline")
        assert lines.count() == 3  # each step, smoothed, dev
        page.locator("#chart-smoothing").fill("0")
        assert lines.count() == 2
        before = polyline(page, 0)
        page.locator("#chart-log").check()
        assert polyline(page, 0) != before
        assert seen.complaints == []


def test_the_keyboard_walks_along_a_curve(browser: Browser, report: Path) -> None:
    with showing(browser, report) as seen:
        page = seen.page
        page.locator("#charts .chart svg").nth(1).focus()
        page.keyboard.press("ArrowRight")
        first = page.locator(".tip").inner_text()
        page.keyboard.press("ArrowRight")
        assert page.locator(".tip").inner_text() != first
        page.keyboard.press("+")
        assert page.locator("#chart-reset").is_enabled()
        page.keyboard.press("Escape")
        assert page.locator("#chart-reset").is_disabled()


def test_without_scripts_the_curves_are_there_with_their_spike(browser: Browser, report: Path) -> None:
    with showing(browser, report, has_script=False) as seen:
        page = seen.page
        assert page.locator("#charts svg").count() == page.locator("#charts .chart").count() >= 5
        assert page.locator("#chart-tools").is_hidden()
        assert page.locator("#charts svg").first.get_attribute("aria-label") == "loss"
        assert "highest 9 at 4321" in (page.locator("#charts desc").first.text_content() or "")


def test_every_cell_that_is_a_heading_says_of_what(browser: Browser, report: Path) -> None:
    with showing(browser, report) as seen:
        assert seen.page.locator("th").count() > 30 and seen.page.locator("th:not([scope])").count() == 0
        assert seen.page.locator("table:not(:has(caption))").count() == 0


def test_runs_lie_over_each_other_on_one_page(browser: Browser, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        events = [START, *(step(number) for number in range(1, 60)), evaluation(59)]
        write_run(tmp_path / name, events, config_yaml=f"{CONFIG}train: {{seed: {seed}}}\n")
    path = tmp_path / "comparison.html"
    records = [read_record(tmp_path / name) for name in ("a", "b")]
    path.write_text(render_comparison(compare_runs(records)), encoding="utf-8")
    for width in (1280, 400):
        with showing(browser, path, width=width) as seen:
            assert seen.page.locator("#charts .chart").first.locator("polyline").count() == 2
            assert seen.complaints == [] and seen.requests == [] and seen.overflow == 0
