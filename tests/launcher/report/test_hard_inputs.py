"""A report is written of whatever a crash, a clock, an old version or a row of somebody else's has left."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.report.comparison import compare_runs, render_comparison
from shardtune.launcher.report.markdown import render_run
from shardtune.launcher.report.page import render_page, write_report
from shardtune.launcher.report.record import read_record
from tests.launcher.report.test_page import EVAL, SCRIPT, START, STEP, write_run

CONFIG = """\
task: {kind: classification}
model: {path: /m}
data: {train: /rows/a.csv, dev: /rows/b.csv}
"""
RESULTS = {
    "step": 4,
    "best_step": 4,
    "dev": {"accuracy": 0.875, "confusion": [[3, 1], [0, 4]], "loss": 0.5, "languages": {"zh": {"f1": 0.5}}},
    "chosen_by": {"metric": "accuracy", "lower_is_better": False},
    "dev_at_start": {"accuracy": 0.5, "loss": 2.0},
}


def life() -> list[dict[str, Any]]:
    """Every kind of event, with every field."""
    waited = {"slowest_rank": 1, "slowest_host": "a", "slowest_gpu": None, "lost_share": 0.1, "step_time_s": 0.5}
    shown = {"prompt": "p", "answer": "a", "reference": "r"}
    data = {"train": {"rows": 9, "tokens": 90}, "dev": {"rows": 8, "tokens": 80}}
    start = {**START, "num_trained": 500, "packed": True, "attention": "sdpa", "data": data}
    return [
        {"event": "begin", "job": "4711", "process_began": 1e9 - 9, "launched": 1e9 - 20, "queued": 1e9 - 50},
        {"event": "notice", "text": "a notice"},
        start,
        {**STEP, **waited, "step": 1, "epoch": 0.5, "mfu": 0.4, "skipped_steps": 0},
        {"event": "alert", "title": "an alert", "text": "of something", "step": 1},
        {"event": "phase", "name": "evaluating on dev"},
        {"event": "phase", "name": None},
        {**EVAL, "step": 1, "answers": [shown]},
        {"event": "lost", "step": 1, "num_steps": 2, "seconds": 3.0},
        {"event": "begin", "job": "4712", "process_began": 1e9 + 900, "launched": 1e9 - 20},
        {**start, "step": 1},
        {**STEP, **waited, "step": 4, "epoch": 1.0, "skipped_steps": 1},
        {**EVAL, "step": 4, "answers": [shown]},
        {"event": "stopped", "step": 4, "reason": "stop file"},
    ]


@pytest.mark.parametrize("seed", range(40))
def test_a_run_with_fewer_fields_has_a_report(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    events = [
        {key: value for key, value in event.items() if key == "event" or chance.random() < 0.7} for event in life()
    ]
    for event in events:
        for key in event:
            if isinstance(event[key], float) and chance.random() < 0.2:
                event[key] = chance.choice([float("nan"), float("inf"), None])
    results = {key: value for key, value in RESULTS.items() if chance.random() < 0.7}
    files = {"results_json": json.dumps(results), "plan_json": "{}", "facts_json": '{"label_names": ["a"]}'}
    record = read_record(write_run(tmp_path, events, config_yaml=chance.choice([CONFIG, "", "x: 1\n"]), **files))
    page = render_page(record)
    assert "</html>" in page and ">nan<" not in page
    assert render_run(record) and "</html>" in render_comparison(compare_runs([record, record]))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\0\0", '{"dev": 3}'])
def test_damaged_files_beside_the_events_are_as_if_missing(tmp_path: Path, text: str) -> None:
    events = [START, {**STEP, "step": 1}, {**EVAL, "step": 1}]
    files = {"results_json": text, "facts_json": text, "plan_json": text}
    page = write_report(write_run(tmp_path, events, config_yaml=CONFIG, **files)).read_text(encoding="utf-8")
    assert "accuracy" in page and "<svg" in page


def test_a_crashed_run_has_a_report_up_to_its_last_whole_line(tmp_path: Path) -> None:
    write_run(tmp_path, [START, {**STEP, "step": 1}], config_yaml=CONFIG)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\0\0\0\0\n{"event": "step", "step": 2, "lo')
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "step 1 of 9 (not finished)" in page and "1 line of metrics.jsonl could not be read" in page


def test_a_clock_that_is_set_back_or_forth_leaves_no_negative_time(tmp_path: Path) -> None:
    times = iter([1e9, 1e9 - 5, 1e9 + 10, 1e9 - 86400, 1e9 + 86400 * 4000, 0.0, 1e18, 1e9 + 5, *[1e9 + 6] * 9])
    events = [{**event, "time": next(times)} for event in life()]
    page = write_report(write_run(tmp_path, events, config_yaml=CONFIG)).read_text(encoding="utf-8")
    assert 'width="-' not in page and "nan" not in page.replace(SCRIPT, "")


def test_texts_of_rows_are_shown_and_never_run(tmp_path: Path) -> None:
    hostile = "</script><script>x()</script>\x00\x1b[31m\x85\u2028\u202e<!--\ud800&amp;"
    alert = {"event": "alert", "title": hostile, "text": hostile, "step": 1}
    shown = {"prompt": hostile, "answer": hostile, "reference": "我们去公园散步吧"}
    evaluated = {**EVAL, "step": 1, "answers": [shown], hostile: 0.5, "types": {hostile: {hostile: 1.0}}}
    events = [START, {**STEP, "step": 1}, {"event": "notice", "text": hostile}, alert, evaluated]
    config = CONFIG.replace("/m", json.dumps(hostile.replace("\ud800", "")))
    facts = json.dumps({"label_names": [hostile, "b"], "label_counts": {"train": {hostile: 3}}})
    page = write_report(write_run(tmp_path, events, config_yaml=config, facts_json=facts)).read_bytes()
    assert page.count(b"<script>x()") == 0 and page.count(b"</script>") == 2, "the numbers of the curves, and ours"
    for character in ("\x00", "\x1b", "\x85", "\u2028", "\u202e"):
        assert character.encode() not in page
    text = page.decode()
    assert "我们去公园散步吧" in text and "\\u2028" in text and "\u2400" in text and "\\ud800" in text
