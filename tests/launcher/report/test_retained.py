"""Retention and worst examples in the report: tables, drawings, curves, a sentence, Markdown."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from shardtune.launcher.report.comparison import compare_runs, render_comparison, retention_tables
from shardtune.launcher.report.markdown import render_run, render_runs
from shardtune.launcher.report.page import render_page, write_report
from shardtune.launcher.report.record import RunRecord, read_record
from shardtune.launcher.report.retention.of_run import retention_curves, retention_table, trade_offs
from shardtune.launcher.report.scatter import Path as SetPath
from shardtune.launcher.report.scatter import render_scatter
from shardtune.launcher.report.sections.summary import summary
from shardtune.launcher.report.sections.worst import worst_examples
from shardtune.run_dir.quality.retention import TradeOff
from shardtune.run_dir.view.history import history_of
from tests.support.browser import open_browser, showing
from tests.support.retained_run import write_retained_run

BOUNDS = (0.0, 1.0)
HOSTILE = "<script>document.title = 'taken'</script>"


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    return read_record(write_retained_run(tmp_path / "run"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as one:
        yield one


def test_each_set_has_a_row_with_its_colour(record: RunRecord) -> None:
    table = retention_table(record)
    assert table is not None and len(set(table.colours)) == 3
    assert [row[0:1] + row[3:] for row in table.rows] == [
        ("news", "0.9000", "0.8280", "0.7000", "-0.0720"),
        ("questions", "0.8000", "0.7700", "0.7500", "-0.0300"),
        ("wiki", "12.0000", "17.4000", "21.0000", "+5.4000"),
    ]


def test_sets_of_one_metric_share_a_drawing_in_which_the_best_step_is_ringed(record: RunRecord) -> None:
    accuracy, perplexity = trade_offs(record)
    assert accuracy.count("<polyline") == 2 and accuracy.count('class="best"') == 2
    assert perplexity.count("<polyline") == 1 and "wiki, step 60: 0.9, 17.4" in perplexity
    assert "news: from 0.66, 0.9 at step 0 to 0.74, 0.7 at step 100; best 0.9, 0.828 at step 60" in accuracy


def test_losses_and_metrics_of_the_sets_are_curves(record: RunRecord) -> None:
    curves = {curve.title: [line.name for line in curve.lines] for curve in retention_curves(record)}
    assert curves == {
        "retention loss": ["news", "questions", "wiki"],
        "retention accuracy": ["news", "questions"],
        "retention perplexity": ["wiki"],
    }


def test_the_summary_and_markdown_say_what_was_lost(record: RunRecord) -> None:
    words = " ".join(summary(record))
    assert "by the best model: accuracy on news went from 0.9000 to 0.8280, accuracy on questions" in words
    assert "perplexity on wiki went from 12.0000 to 17.4000." in words
    assert "| news | classification | accuracy | 0.9000 | 0.8280 | 0.7000 | -0.0720 |" in render_run(record)


def test_runs_are_compared_by_what_they_learn_and_what_they_keep(tmp_path: Path) -> None:
    runs = [read_record(write_retained_run(tmp_path / name)) for name in ("full", "lora")]
    without = read_record(write_retained_run(tmp_path / "none"))
    runs.append(replace(without, results=None, history=history_of(without.history.of("start"))))
    comparison = compare_runs(runs)
    (table,) = retention_tables(comparison)
    assert table.head == ("run", "dev accuracy", "news accuracy", "questions accuracy", "wiki perplexity")
    assert table.rows[0] == ("full", "0.9000", "0.8280 (-0.0720)", "0.7700 (-0.0300)", "17.4000 (+5.4000)")
    assert table.rows[2] == ("none", "–", "", "", "")
    page = render_comparison(comparison)
    drawings = re.findall(r"<svg[^>]*aria-label=.(?:news|questions|wiki) .*?</svg>", page)
    assert [drawing.count("<polyline") for drawing in drawings] == [2, 2, 2]
    assert "| full | 0.9000 | 0.8280 (-0.0720) |" in render_runs(comparison)


def test_a_run_without_sets_and_test_rows_has_neither_section(tmp_path: Path) -> None:
    run_dir = write_retained_run(tmp_path / "run")
    for name in ("results.json", "test_rows.jsonl"):
        (run_dir / name).unlink()
    lines = (run_dir / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "metrics.jsonl").write_text("".join(line for line in lines if "retention" not in line))
    record = read_record(run_dir)
    page = render_page(record)
    assert not trade_offs(record) and retention_table(record) is None and not retention_curves(record)
    assert not re.search(r'<section id="(retention|worst)">', page)


def test_the_worst_rows_are_shown_with_their_texts_and_no_secret(tmp_path: Path) -> None:
    texts = [("fine", "good"), (f"{HOSTILE} hf_abcdefghijklmnopqrstuvwxyz0123456789", "bad")]
    (table,) = worst_examples(read_record(write_retained_run(tmp_path / "run", texts=texts)))
    assert table.head == ("loss", "text", "label", "place")
    loss, text, label, place = table.rows[0]
    assert (loss, label) == ("0.2500", "bad") and place.endswith("test.jsonl:2")
    assert HOSTILE in text and "hf_abc" not in text
    assert table.note.startswith("Of 2 rows.") and "could not be read" not in table.note


def test_rows_whose_file_is_gone_keep_their_place(tmp_path: Path) -> None:
    run_dir = write_retained_run(tmp_path / "run")
    (tmp_path / "run-data" / "test.jsonl").unlink()
    (table,) = worst_examples(read_record(run_dir))
    assert table.head == ("loss", "place") and "4 of these rows could not be read" in table.note


def test_a_long_path_keeps_its_ends_and_the_best_point() -> None:
    points = [TradeOff(step, step / 1000, 0.5, step == 777) for step in range(1000)]
    drawing = render_scatter("t", "x", "y", [SetPath("a", points, "#000")], BOUNDS, BOUNDS)
    assert 190 <= drawing.count("<title>") <= 203 and drawing.count('class="best"') == 1
    assert all(f"a, step {step}:" in drawing for step in (0, 777, 999))
    assert render_scatter("t", "x", "y", [SetPath("a", [], "#000")], BOUNDS, BOUNDS) == ""


def test_a_single_evaluation_is_drawn(record: RunRecord) -> None:
    point = TradeOff(0, 0.5, 0.5, is_best=False)
    drawing = render_scatter("t", "x", "<y>", [SetPath("<a>", [point], "#000")], BOUNDS, BOUNDS)
    assert "nan" not in drawing and "<y>" not in drawing and "&lt;a&gt;, step 0: 0.5, 0.5" in drawing


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_shows_them_at_any_width(browser: Browser, tmp_path: Path, width: int) -> None:
    texts = [("你好，世界。这部电影从头到尾都很好看。" * 5, "好"), (HOSTILE, "bad")]
    path = write_report(write_retained_run(tmp_path / "run", texts=texts))
    with showing(browser, path, width=width) as seen:
        assert seen.page.locator("#retention svg").count() == 2
        assert seen.page.locator("#retention svg .best").count() == 3
        assert seen.page.locator("#charts .chart", has_text="retention accuracy").count() == 1
        assert seen.page.locator("#worst tbody tr").count() == 2
        assert seen.page.title() != "taken" and HOSTILE in seen.page.locator("#worst").inner_text()
        boxes = seen.page.evaluate(
            "[...document.querySelectorAll('#retention svg text')].map(t => t.getBBox()).map(b => b.x + b.width)"
        )
        assert max(boxes) <= 440
        assert (seen.complaints, seen.requests, seen.overflow) == ([], [], 0)
