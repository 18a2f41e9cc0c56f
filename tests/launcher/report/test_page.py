"""The page of a run: a single file, made of whatever the run directory holds so far."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.launcher.report import page as page_module
from shardtune.launcher.report.page import write_report
from shardtune.run_dir.files import read_events
from shardtune.run_dir.view.chart import Series, nice_ticks, render_chart, short, smoothed

SCRIPT = (Path(page_module.__file__).parent / "charts.js").read_text(encoding="utf-8")
START = {
    "event": "start", "step": 0, "num_steps": 9, "num_rows": 67, "num_parameters": 1000, "world_size": 2,
    "device": "cpu", "zero_stage": 2, "precision": "bf16",
}  # fmt: skip
STEP = {
    "event": "step",
    "loss": 0.5,
    "lr": 1e-4,
    "grad_norm": 1.0,
    "tokens_per_s": 900.0,
    "memory_bytes": 2_000_000_000,
    "padding_efficiency": 0.975,
    "data_wait_s": 0.0004,
}
EVAL = {"event": "eval", "split": "dev", "loss": 0.4, "accuracy": 0.875, "confusion": [[3, 1], [0, 4]]}


def write_run(folder: Path, events: list[dict[str, Any]], **files: str) -> Path:
    lines = [json.dumps({"time": 1e9 + 90 * number, **event}) + "\n" for number, event in enumerate(events)]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_text(text, encoding="utf-8")
    return folder


def test_what_was_predicted_stands_beside_what_became_of_it(tmp_path: Path) -> None:
    events = [START, {**STEP, "step": 1}]
    assert "Predicted and real" not in write_report(write_run(tmp_path, events)).read_text()
    page = write_report(write_run(tmp_path, events, plan_json='{"memory_bytes": 1000000000}')).read_text()
    assert "Predicted and real" in page
    assert "1.00 GB" in page and "2.00 GB" in page and "-50%" in page


def test_the_page_has_the_curves_the_evaluations_and_the_config(tmp_path: Path) -> None:
    events = [START, *({**STEP, "step": step} for step in range(1, 10)), {**EVAL, "step": 9}]
    facts = json.dumps({"label_names": ["<bad>", "good"]})
    page = write_report(write_run(tmp_path, events, config_yaml="optim:\n  lr: 1\n", facts_json=facts)).read_text()
    assert len(re.findall("<svg", page)) == 7
    assert page.count('<figure class="chart">') == 6
    assert "step 9 of 9 (not finished)" in page
    assert "97.5% of the tokens are not padding · 0.40 ms data wait per step" in page
    assert "Time lost waiting" not in page
    assert "0.8750" in page
    assert re.search(r'<th scope="row">&lt;bad&gt;</th><td [^>]*>3</td><td [^>]*>1</td>', page)
    assert "optim:\n  lr: 1" in page
    assert '<meta name="viewport"' in page
    assert not re.search(r'(src|href)="(?!#)|https?://', page), "the page needs something from outside"


def test_the_slowest_ranks_are_named_with_the_time_they_cost(tmp_path: Path) -> None:
    def waited(step: int, rank: int, lost_share: float) -> dict[str, Any]:
        slowest = {"slowest_rank": rank, "slowest_host": f"<node{rank}>", "slowest_gpu": 1, "lost_share": lost_share}
        return {**STEP, "step": step, **slowest}

    events = [START, waited(1, 0, 0.02), waited(2, 3, 0.4), waited(3, 3, 0.3)]
    page = write_report(write_run(tmp_path, events)).read_text()
    assert "<tr><td>rank 3 (&lt;node3&gt;, GPU 1)</td><td>23.3%</td></tr>" in page
    assert "time lost waiting for the slowest rank, %" in page


def test_answers_are_shown_as_text_beside_those_of_the_first_evaluation(tmp_path: Path) -> None:
    def asked(step: int, answer: str, **more: Any) -> dict[str, Any]:
        shown = {"prompt": "<user>\nSay <script>", "answer": answer, "reference": "<&>"}
        return {**EVAL, "step": step, "answers": [shown], **more}

    events = [
        START,
        {**STEP, "step": 1},
        asked(0, "…"),
        asked(5, "not shown"),
        asked(9, "<b>"),
        asked(9, "T", split="test"),
    ]
    page = write_report(write_run(tmp_path, events)).read_text(encoding="utf-8")
    cells = ["&lt;user&gt;\nSay &lt;script&gt;", "…", "&lt;b&gt;", "&lt;&amp;&gt;"]
    assert "".join(f"<td>{cell}</td>" for cell in cells) in page
    assert "Answers on dev, step 9" in page and '<th scope="col">answer at step 0</th>' in page
    assert f"<tr><td>{cells[0]}</td><td>T</td><td>{cells[3]}</td></tr>" in page
    assert "<script>" not in page.replace(f"<script>{SCRIPT}</script>", "") and "not shown" not in page
    assert "Answers on" not in write_report(write_run(tmp_path, [START, {**EVAL, "step": 1}])).read_text()


def test_markup_in_the_names_of_metrics_is_shown_as_text(tmp_path: Path) -> None:
    named = {**EVAL, "step": 1, "<img src=x onerror=alert(1)>": 0.5}
    page = write_report(write_run(tmp_path, [START, {**STEP, "step": 1}, named], config_yaml="a: <b>")).read_text()
    assert "<img" not in page and "dev &lt;img src=x onerror=alert(1)&gt;" in page and "a: &lt;b&gt;" in page


def test_the_page_says_when_how_long_and_on_which_rows(tmp_path: Path) -> None:
    config = """\
task: {kind: classification}
model: {path: /m}
data: {train: [/rows/a<b.csv, hf:owner/name], dev: {fraction: 0.05}}
"""
    start = {**START, "data": {"train": {"rows": 4800, "tokens": 120000}, "dev": {"rows": 250, "tokens": 6000}}}
    events = [start, *({**STEP, "step": step} for step in range(1, 4))]
    page = write_report(write_run(tmp_path, events, config_yaml=config)).read_text()
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.search(rf"Training took about 4 min 30 s in 1 start, {stamp} to \d\d:\d\d\.", page)
    assert "<tr><td>train</td><td>/rows/a&lt;b.csv\nhf:owner/name</td><td>4,800</td><td>120,000</td></tr>" in page
    assert "<tr><td>dev</td><td>0.05 of the training rows</td><td>250</td><td>6,000</td></tr>" in page
    assert "<td>test</td>" not in page


def test_f1_micro_is_not_drawn_beside_an_equal_accuracy(tmp_path: Path) -> None:
    def page(f1_micro: float) -> str:
        scored = {**EVAL, "step": 1, "f1_micro": f1_micro, "f1_macro": EVAL["accuracy"]}
        return write_report(write_run(tmp_path, [START, {**STEP, "step": 1}, scored])).read_text()

    for shown in ("dev f1_micro<", '<th scope="col">f1_micro<'):
        assert shown not in page(0.875) and shown in page(0.5)
    assert "dev accuracy = f1_micro<" in page(0.875)
    assert "dev f1_macro<" in page(0.875), "it is equal by chance"


def test_a_legend_is_as_dark_as_other_text(tmp_path: Path) -> None:
    chart = render_chart("loss", [Series("each step", [(0, 1.0)], "#eeeeee"), Series("dev", [(0, 1.0)], "red")])
    assert re.search(r'<rect [^>]*fill="#eeeeee"/><text x="\d+" y="28">each step</text>', chart)


def test_alerts_are_on_the_page(tmp_path: Path) -> None:
    alert = {"event": "alert", "title": "not saved", "text": "no room on <disk>", "step": 4}
    page = write_report(write_run(tmp_path, [START, {**STEP, "step": 1}, alert])).read_text()
    assert "<span>not saved: no room on &lt;disk&gt;</span></li>" in page
    assert "Warnings" not in write_report(write_run(tmp_path, [START, {**STEP, "step": 1}])).read_text()


def test_a_run_without_a_step_has_a_page_too(tmp_path: Path) -> None:
    assert "No training step has been done yet." in write_report(write_run(tmp_path, [])).read_text()


def test_losses_that_are_not_numbers_are_skipped(tmp_path: Path) -> None:
    events = [START, {**STEP, "step": 1}, {**STEP, "step": 2, "loss": None}, {**STEP, "step": 3}]
    page = write_report(write_run(tmp_path, events)).read_text()
    assert "nan" not in page


def test_a_step_without_a_utilization_leaves_that_of_the_others(tmp_path: Path) -> None:
    events = [START, {**STEP, "step": 1, "mfu": None}, {**STEP, "step": 2, "mfu": 0.25}]
    assert "25.0% MFU" in write_report(write_run(tmp_path, events)).read_text()


def test_a_line_that_is_still_being_written_is_skipped(tmp_path: Path) -> None:
    write_run(tmp_path, [START])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert read_events(tmp_path) == [{"time": 1e9, **START}]


@given(st.floats(-1e6, 1e6, allow_subnormal=False), st.floats(0, 1e6, allow_subnormal=False))
def test_ticks_are_few_and_hold_the_values_between_them(low: float, span: float) -> None:
    ticks = nice_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert ticks[0] <= low + 1e-6 * abs(low) and ticks[-1] >= low + span - 1e-6 * abs(low + span)
    assert all(len(short(tick)) <= 9 for tick in ticks)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40))
def test_any_series_gives_a_chart_without_a_nan(values: list[float]) -> None:
    sane = [value if abs(value) < 1e30 or not math.isfinite(value) else 0.0 for value in values]
    chart = render_chart("x", [Series("a", list(enumerate(sane)), "red", dots=True)])
    assert "nan" not in chart and "inf" not in chart
    assert bool(chart) == any(math.isfinite(value) for value in sane)


def test_smoothing_keeps_a_constant_and_lags_behind_a_step() -> None:
    assert [y for _, y in smoothed([(x, 2.0) for x in range(5)])] == pytest.approx([2.0] * 5)
    assert smoothed([(0, 0.0), (1, 1.0)])[-1][1] == pytest.approx(0.1 / 0.19)
