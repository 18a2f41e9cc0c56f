"""Retention sets in the dashboard: names, groups, the answer about a run, and its drawing in the page."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium

from shardtune.launcher.dashboard.server import Dashboard
from tests.launcher.dashboard.conftest import Browser
from tests.launcher.dashboard.page import PHONE, WIDE, Visit, append, chromium
from tests.support.retained_run import dev_at, retention, write_retained_run

Open = Callable[[Path], Browser]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_retained_run(tmp_path / "run")


def details(browser: Browser) -> dict[str, Any]:
    (row,) = browser.runs().values()
    found: dict[str, Any] = browser.get(f"/api/runs/{row['id']}")
    return found


def test_sets_are_metrics_of_a_group_of_their_own(run_dir: Path, open_dashboard: Open) -> None:
    browser = open_dashboard(run_dir.parent)
    groups = {metric["name"]: metric["group"] for metric in browser.get("/api/runs")["metrics"]}
    assert groups["retention/news/accuracy"] == groups["retention/wiki/perplexity"] == "retention"
    assert groups["dev/kl_to_base"] == "eval"
    assert list(dict.fromkeys(groups.values()))[:3] == ["train", "eval", "retention"]
    (row,) = browser.runs().values()
    assert row["best"]["retention/wiki/perplexity"] == {"value": 12.0, "step": 0, "higher_is_better": False}
    assert row["best"]["dev/kl_to_base"]["higher_is_better"] is False
    series = browser.get("/api/series", run=row["id"], metric="retention/news/accuracy")["series"]
    assert series[0]["x"] == [0, 20, 40, 60, 80, 100] and series[0]["y"][0] == 0.9


def test_a_run_is_told_with_its_sets_against_the_metric_that_chose_the_best_step(
    run_dir: Path, open_dashboard: Open
) -> None:
    shown = details(open_dashboard(run_dir.parent))["retention"]
    assert (shown["target"], shown["target_lower_is_better"]) == ("accuracy", False)
    news, _, wiki = shown["sets"]
    assert (news["before"], news["best"], news["last"]) == (0.9, pytest.approx(0.828), pytest.approx(0.7))
    assert wiki["is_worse"] and wiki["change"] == pytest.approx(5.4)
    assert [(point["step"], point["is_best"]) for point in news["points"]][2:4] == [(40, False), (60, True)]
    assert news["points"][0] == {"step": 0, "target": pytest.approx(0.66), "value": 0.9, "is_best": False}


def test_while_it_trains_the_newest_evaluation_counts_and_a_run_without_sets_has_none(
    run_dir: Path, open_dashboard: Open
) -> None:
    (run_dir / "results.json").unlink()
    browser = open_dashboard(run_dir.parent)
    news = details(browser)["retention"]["sets"][0]
    assert (news["best"], news["change"]) == (None, pytest.approx(-0.2))
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(line for line in lines if "retention" not in line))
    assert details(open_dashboard(run_dir.parent))["retention"] is None


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as one:
        yield one


@pytest.mark.parametrize(("size", "locale"), [(WIDE, "en-US"), (PHONE, "zh-CN")])
def test_the_view_of_a_run_draws_them_and_goes_on_as_they_grow(
    browser: Chromium, run_dir: Path, size: tuple[int, int], locale: str
) -> None:
    (run_dir / "plan.json").write_text('{"step_s": 0.8}')
    dashboard = Dashboard(run_dir.parent, None)
    with dashboard.serving():
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale=locale)
        page = Visit(context.new_page(), dashboard)
        page.show(f"run={page.id_of('run')}")
        part = page.page.locator("[data-part=retention]")
        part.locator(".trade-off").nth(1).wait_for()
        assert part.locator("tbody tr").count() == 3 and part.locator(".worse").count() == 3
        assert part.locator("[data-set=news] .point").count() == 6 and part.locator(".ring").count() == 3
        head = part.locator("th").all_inner_texts()
        assert head[-1] == ("变化" if locale == "zh-CN" else "Change")
        assert "-20 %" in page.page.locator("[data-part=plan]").inner_text()
        assert page.overflow() == 0
        append(run_dir, [dev_at(120), retention("news", 120, "accuracy", 0.65)])
        part.locator("[data-set=news] .point").nth(6).wait_for()
        page.show("layout=charts" if size == PHONE else "")
        assert page.points("retention/news/accuracy") == 7
        assert page.complaints == []
        context.close()


def test_planned_and_real_compares_the_median_of_the_newest_steps(run_dir: Path, open_dashboard: Open) -> None:
    odd = {"event": "step", "time": 1_796_000_130.0, "step": 101, "step_time_s": 90.0, "tokens_per_s": 5.0}
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(odd) + "\n")
    assert details(open_dashboard(run_dir.parent))["typical"] == {"step_time_s": 1.0, "tokens_per_s": 48_000.0}
