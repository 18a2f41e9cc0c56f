"""The page in a browser: curves, comparison, live changes, keys, languages, narrow screens; and nothing but its own."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import expect

from shardtune.launcher.dashboard.server import Dashboard
from shardtune.run_dir.view.chart import smoothed
from tests.launcher.dashboard.conftest import BEGIN, START, eventually, write_run
from tests.launcher.dashboard.page import PAINTED, PHONE, WIDE, Visit, append, chromium, curve, write_runs

Open = Callable[..., Visit]
LIVE_MS = 15_000
"""How long a change may take here: the server looks twice a second, the machine of the tests is busy."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as one:
        yield one


@pytest.fixture
def visit(browser: Chromium, tmp_path: Path) -> Iterator[Open]:
    """Opens the page over three runs. In the end no page must have complained, or have asked another origin."""
    write_runs(tmp_path)
    dashboard = Dashboard(tmp_path, None)
    visits = []
    with dashboard.serving():

        def open_page(size: tuple[int, int] = WIDE, locale: str = "en-US", scheme: str = "light") -> Visit:
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]},
                locale=locale,
                color_scheme=scheme,  # type: ignore[arg-type]
            )
            visits.append(Visit(context.new_page(), dashboard))
            return visits[-1]

        yield open_page
        for each in visits:
            assert each.page.evaluate("window.executed") is None
            assert each.complaints == []
            assert {url.split("/")[2] for url in each.requests} == {f"127.0.0.1:{dashboard.port}"}
            each.page.context.close()


def test_the_curves_of_the_compared_runs_are_drawn_over_each_other(visit: Open) -> None:
    page = visit()
    assert page.points("train/loss") == 300
    assert len(page.page.evaluate(PAINTED, ".panel[data-metric='train/loss']")) >= 2
    page.page.click(f"{page.row('second')} .pick")
    page.wait_for_points("train/loss", 200)
    expect(page.page.locator(".chip")).to_have_count(1)
    words = page.page.get_attribute(".panel[data-metric='train/loss'] .plot", "aria-label") or ""
    assert "first: from 1 to 0.0707" in words and "second" not in words
    assert page.points("dev/accuracy") == 2
    page.page.check("thead .pick")
    page.wait_for_points("train/loss", 300)
    page.page.uncheck("thead .pick")
    expect(page.page.locator(".charts-scroll .empty")).to_contain_text("No run is chosen")


def test_new_lines_appear_and_lines_that_were_taken_back_vanish(visit: Open, tmp_path: Path) -> None:
    page = visit()
    page.wait_for_points("train/loss", 300)
    page.page.wait_for_timeout(1000)  # until the charts below are drawn, too
    before = len(page.requests)
    append(tmp_path / "first", curve(10, first=201))
    page.page.wait_for_selector(".panel[data-metric='train/loss'][data-points='310']", timeout=LIVE_MS)
    expect(page.page.locator(f"{page.row('first')} .note")).to_contain_text("210")
    asked = [url for url in page.requests[before:] if "/api/series" in url]
    assert asked and all(page.id_of("first") in url and page.id_of("second") not in url for url in asked)
    path = tmp_path / "first" / "metrics.jsonl"
    path.write_text("".join(f"{json.dumps(event)}\n" for event in [BEGIN, START, *curve(50)]))
    page.page.wait_for_selector(".panel[data-metric='train/loss'][data-points='150']", timeout=LIVE_MS)


def test_a_run_that_begins_joins_the_table(visit: Open, tmp_path: Path) -> None:
    page = visit()
    expect(page.page.locator("tbody tr[id^=run-]")).to_have_count(3)
    write_run(tmp_path / "fourth", [BEGIN, START, *curve(5)])
    expect(page.page.locator("tbody tr[id^=run-]")).to_have_count(4, timeout=LIVE_MS)


def test_an_address_reproduces_a_view(visit: Open) -> None:
    page = visit()
    chosen = page.id_of("second")
    page.show(f"selected={chosen}&axis=epoch&smoothing=0.9&log=1&filter=lr%3D0.2&range=0.2..0.6&closed=eval")
    page.wait_for_points("train/loss", 43)  # steps 20 to 60 of 100 an epoch, and one on either side
    assert page.page.get_attribute("[data-axis=epoch]", "aria-pressed") == "true"
    expect(page.page.locator("tbody tr[id^=run-]")).to_have_count(1)
    expect(page.page.locator(".amount")).to_have_text("0.90")
    assert not page.page.is_visible(".panel[data-metric='dev/loss']")
    other = visit()
    other.page.goto(page.page.url)
    other.wait_for_points("train/loss", 43)


def test_a_run_keeps_its_color_wherever_it_is_shown(visit: Open) -> None:
    page = visit()
    page.points("train/loss")
    page.page.click(f"{page.row('second')} .pick")
    page.wait_for_points("train/loss", 200)
    colors = page.page.evaluate(PAINTED, ".panel[data-metric='train/loss']")
    page.page.click(f"{page.row('first')} .name")
    page.points("train/loss")
    assert set(page.page.evaluate(PAINTED, ".run-view .panel[data-metric='train/loss']")) & set(colors)
    page.page.reload()
    page.points("train/loss")
    assert set(page.page.evaluate(PAINTED, ".run-view .panel[data-metric='train/loss']")) & set(colors)


SMOOTHED = """async ([x, y, weight]) => {
  const { smoothed } = await import("/static/app/charts/smoothing.js");
  return smoothed(x, y, weight);
}"""


def test_a_curve_is_smoothed_as_in_the_report_and_a_thinned_one_as_the_whole(visit: Open) -> None:
    page = visit().page
    steps, values = list(range(10, 310, 10)), [1 + (7 * number % 11) / 10 for number in range(30)]
    drawn = page.evaluate(SMOOTHED, [steps, values, 0.9])
    assert drawn == pytest.approx([value for _, value in smoothed(list(zip(steps, values, strict=True)), 0.9)])
    gap = [*values[:10], None, *values[11:]]
    assert page.evaluate(SMOOTHED, [steps, gap, 0.9])[10] is None
    assert page.evaluate(SMOOTHED, [[0, 10, 1000], [0, 0, 1], 0.5])[-1] > 0.6  # 0.57 if distances did not count


def test_dragging_zooms_all_charts_and_a_double_click_shows_all_again(visit: Open) -> None:
    page = visit()
    page.points("train/loss")
    over = page.page.locator(".panel[data-metric='train/loss'] .u-over")
    box = over.bounding_box()
    assert box is not None
    page.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=4)
    page.page.mouse.up()
    expect(page.page).to_have_url(re.compile("range="))
    page.page.wait_for_selector(".panel[data-metric='train/lr'][data-points]:not([data-points='300'])")
    assert 90 <= page.points("train/loss") <= 110  # steps 50 to 100 of two runs
    assert any("from=" in url and "/api/series" in url for url in page.requests)
    over.dblclick()
    page.wait_for_points("train/loss", 300)


def test_the_values_of_all_runs_stand_beside_the_pointer(visit: Open) -> None:
    page = visit()
    page.points("train/loss")
    page.page.hover(".panel[data-metric='train/loss'] .u-over", position={"x": 20, "y": 40})
    expect(page.page.locator(".tooltip-row")).to_have_count(2)
    assert {"first", "second"} == set(page.page.locator(".tooltip-name").all_inner_texts())


FILTERS = {
    "lr=0.1": ["first"],
    "lr=1e-1": ["first"],
    "optim.lr>=0.2": ["second", "third"],
    "state=finished": ["second"],
    "sec state=finished": ["second"],
    "step>50 lr!=0.2": ["first"],
    "train/loss<0.1": ["first"],
    "task~ha name=first": ["first"],
    '"third <img"': ["third"],
}
"""What is typed, and the runs that are left."""


def test_the_filter_takes_words_and_conditions(visit: Open) -> None:
    page = visit()
    for words, left in FILTERS.items():
        page.page.fill(".filter", words)
        expect(page.page.locator("tbody tr[id^=run-]")).to_have_count(len(left))
        assert [name.split()[0] for name in sorted(page.page.locator(".name").all_inner_texts())] == left, words


def test_a_key_that_no_run_has_is_named(visit: Open) -> None:
    page = visit()
    page.page.fill(".filter", "lrr=0.1")
    expect(page.page.locator(".shown")).to_have_text("no run differs in lrr")


def test_keys_move_select_search_and_explain(visit: Open) -> None:
    page = visit()
    page.points("train/loss")
    names = page.page.locator(".name").all_inner_texts()
    keyboard = page.page.keyboard
    keyboard.press("j")
    expect(page.page.locator("tr.active .name")).to_have_text(names[0])
    keyboard.press("j")
    keyboard.press("j")
    keyboard.press("k")
    expect(page.page.locator("tr.active .name")).to_have_text(names[1])
    was = page.page.get_attribute("tr.active", "aria-selected")
    keyboard.press("x")
    expect(page.page.locator("tr.active")).not_to_have_attribute("aria-selected", was or "")
    keyboard.press("s")
    expect(page.page.locator(".amount")).to_have_text("0.60")
    keyboard.press("l")
    expect(page.page.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    keyboard.press("/")
    keyboard.type("first")
    expect(page.page.locator("tbody tr[id^=run-]")).to_have_count(1)
    keyboard.press("Escape")
    keyboard.press("?")
    expect(page.page.locator("dialog[open] kbd").first).to_have_text("j")
    keyboard.press("Escape")
    keyboard.press("j")
    keyboard.press("Enter")
    expect(page.page.locator(".run-title")).to_have_text("first")
    keyboard.press("Escape")
    expect(page.page.locator(".run-view")).to_be_hidden()


def test_a_run_has_a_view_of_its_own_in_which_markup_stays_text(visit: Open, tmp_path: Path) -> None:
    page = visit()
    page.page.click(f"{page.row('first')} .name")
    expect(page.page.locator(".run-title")).to_have_text("first")
    sample = page.page.locator(".sample").first
    expect(sample).to_contain_text("a prompt <img src=x")
    expect(page.page.locator(".log")).to_contain_text("the last words <img src=x")
    expect(page.page.locator("[data-part=recipe]")).to_contain_text("lr: 0.1")
    expect(page.page.locator("[data-part=time]")).to_contain_text("useful training")
    assert page.points("train/loss") == 200
    with (tmp_path / "first" / "logs" / "rank-0.log").open("a") as file:
        file.write("and one more\n")
    append(tmp_path / "first", curve(1, first=201))
    expect(page.page.locator(".log")).to_contain_text("and one more", timeout=LIVE_MS)
    page.page.go_back()
    expect(page.page.locator(".run-view")).to_be_hidden()


@pytest.mark.parametrize("size", [WIDE, PHONE])
def test_nothing_is_wider_than_the_window(visit: Open, size: tuple[int, int]) -> None:
    page = visit(size)
    for address in ("", "layout=table", "layout=charts", f"run={page.id_of('first')}"):
        page.show(address)
        page.page.wait_for_timeout(200)
        assert page.overflow() == 0, address


def test_the_browsers_language_is_that_of_the_page(visit: Open) -> None:
    chinese, english = visit(locale="zh-CN"), visit(locale="de-DE")
    expect(chinese.page.locator("[data-layout=table]")).to_have_text("表格")
    assert chinese.page.evaluate("document.documentElement.lang") == "zh-CN"
    assert "损失" not in chinese.page.inner_text(".charts-scroll") and "train" not in chinese.page.inner_text("h2")
    expect(english.page.locator("[data-layout=table]")).to_have_text("Table")
    english.page.click("[aria-label='Chinese (中文)']")
    expect(english.page.locator("[data-layout=table]")).to_have_text("表格")


def test_dark_is_what_the_browser_prefers_until_the_toggle_says_otherwise(visit: Open) -> None:
    page = visit(scheme="dark")

    def ground() -> str:
        return str(page.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(16, 19, 23)"
    page.page.keyboard.press("t")
    assert ground() == "rgb(255, 255, 255)"
    page.page.reload()
    assert ground() == "rgb(255, 255, 255)"


def test_the_end_of_the_server_is_told_and_that_it_is_back(browser: Chromium, tmp_path: Path) -> None:
    write_runs(tmp_path)
    dashboard = Dashboard(tmp_path, None)
    with dashboard.serving():
        page = Visit(browser.new_page(), dashboard)
    expect(page.page.locator(".banner")).to_contain_text("does not answer", timeout=LIVE_MS)
    again = Dashboard(tmp_path, dashboard.port)
    again.token = dashboard.token
    again.server.config.app.__init__(again.server.config.app._app, dashboard.token)  # type: ignore[misc,union-attr]
    with again.serving():
        expect(page.page.locator(".banner")).to_be_hidden(timeout=2 * LIVE_MS)
        page.page.close()


def test_of_500_runs_only_those_in_view_are_in_the_document(browser: Chromium, tmp_path: Path) -> None:
    for number in range(500):
        write_run(tmp_path / f"run-{number:03}", [BEGIN, START, *curve(2)])
    dashboard = Dashboard(tmp_path, None)
    with dashboard.serving():
        page = Visit(browser.new_page(viewport={"width": 1280, "height": 800}), dashboard)
        expect(page.page.locator("table.runs")).to_have_attribute("aria-rowcount", "501", timeout=60_000)
        assert page.page.locator("tbody tr[id^=run-]").count() < 60
        page.page.evaluate("document.querySelector('.table-scroll').scrollTop = 1e9")
        last = page.page.locator("tr[aria-rowindex='501']")
        expect(last).to_be_visible()
        assert eventually(lambda: page.page.locator("tbody tr[id^=run-]").count() < 60)
        page.page.close()


def test_without_uplot_the_page_says_what_is_missing(visit: Open) -> None:
    page = visit()
    page.page.route(
        "**/vendor/uplot/*.js", lambda route: route.fulfill(status=200, body="", content_type="text/javascript")
    )
    page.page.reload()
    note = page.page.locator(".panel[data-metric='train/loss'] .plot-note")
    expect(note).to_contain_text("The chart library uPlot 1.6.32 is not installed")
