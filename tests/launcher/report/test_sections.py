"""What each section of a report says, and that it is silent where nothing is known."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shardtune.launcher.report.charts import axes_of
from shardtune.launcher.report.parts import Code, Figure, Table, Text
from shardtune.launcher.report.record import RunRecord, read_record
from shardtune.launcher.report.sections.blending import blending
from shardtune.launcher.report.sections.data import data_card
from shardtune.launcher.report.sections.machine import environment, time_parts
from shardtune.launcher.report.sections.results import evaluations, results
from shardtune.launcher.report.sections.settings import changed_settings, reproduction, settings
from shardtune.launcher.report.sections.summary import key_figures, state, summary
from shardtune.launcher.report.sections.warnings import warnings_of
from shardtune.run_dir.view.history import history_of
from tests.launcher.report.test_page import EVAL, START, STEP, write_run

CONFIG = """\
task: {kind: classification}
model: {path: /models/minilm, lora: {r: 4}}
data: {train: /rows/a.csv, test: /rows/b.csv, cache_dir: CACHE}
train: {global_batch_size: 16, num_epochs: 2}
optim: {lr: 3.0e-4}
"""
PREPARED = {
    "splits": {"train": {"rows": 90, "rows_dropped": 2, "tokens": 900}, "test": {"rows": 10, "rows_truncated": 3}},
    "notes": ["train: 7 duplicates of earlier rows (7.8%)", "leak: said already"],
    "duplicates": {"train": 7, "test": 0},
    "bad_rows": {"rows": {"train": 4}},
    "leaks": [{"of": "test", "inside": "train", "rows": 5, "first": ["b.csv:2 = a.csv:2"]}],
    "near_duplicates": {
        "leaks": [{"of": "test", "inside": "train", "rows": 2, "first": ["b.csv:3 ~ a.csv:4 (0.91)"]}],
        "dropped": 0,
    },
}
MANIFEST = {"versions": {"shardtune": "0.1.0", "torch": "2.13.0+cpu", "safetensors": "0.8.0"}, "layout": {}}


def tables(parts: Any) -> dict[str, Table]:
    return {part.title: part for part in parts if isinstance(part, Table)}


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    """A run with prepared data, a checkpoint and results."""
    prepared = tmp_path / "cache" / "abc123"
    prepared.mkdir(parents=True)
    (prepared / "meta.json").write_text(json.dumps(PREPARED))
    np.save(prepared / "train.lengths.npy", np.array([3, 3, 8, 20], dtype=np.int32))
    checkpoint = tmp_path / "checkpoints" / "step-10"
    checkpoint.mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "checkpoint": MANIFEST}))
    start = {**START, "num_parameters": 22_700_000, "num_trained": 227_000, "num_rows": 90, "num_steps": 10}
    alerts = [
        {"event": "alert", "title": f"loss spike at step {at}", "text": f"loss {at}.0", "step": at} for at in (3, 5, 8)
    ]
    steps = [{**STEP, "step": at, "step_time_s": 30.0, "skipped_steps": int(at == 4)} for at in range(1, 11)]
    scored = {"accuracy": 0.875, "confusion": [[3, 1], [0, 4]], "loss": 0.4}
    found = {
        "step": 10,
        "best_step": 5,
        "dev_at_start": {"accuracy": 0.5},
        "test": scored,
        "chosen_by": {"metric": "accuracy", "lower_is_better": False},
    }
    events = [
        {"event": "begin", "process_began": 1e9 - 10, "launched": 1e9 - 20},
        start,
        *steps,
        *alerts,
        {"event": "notice", "text": "optim.weight_decay changes no weight"},
        {"event": "begin", "process_began": 1e9 + 1400, "launched": 1e9 - 20},
        {**start, "step": 10},
    ]
    files = {
        "results_json": json.dumps(found),
        "facts_json": json.dumps({"label_names": ["x", "y"], "label_counts": {"train": {"x": 50, "y": 40}}}),
    }
    write_run(tmp_path, events, config_yaml=CONFIG.replace("CACHE", str(tmp_path / "cache")), **files)
    (tmp_path / "data_fingerprint").write_text('abc123\n{"data.train": "x"}')
    return read_record(tmp_path)


def test_the_summary_says_what_how_well_how_long_and_where_the_time_went(record: RunRecord) -> None:
    what, result, how_long = summary(record)
    assert what == (
        "minilm (227,000 of 22.7 million parameters trained, 1.00%) was trained with LoRA (r = 4) for classification "
        "(single label). It saw 90 rows: 10 steps of 16 rows."
    )
    assert result == (
        "On test, accuracy is 0.8750 (95% interval 0.5291 to 0.9776; Wilson, 7 of 8). Before training it was 0.5000 on "
        "dev. The best model is that of step 5, by the highest accuracy."
    )
    assert "in 2 starts" in how_long and "It ran on 2 ranks (cpu; ZeRO-2, bf16) and cost" in how_long
    assert "rank-hours of CPU" in how_long and "was training on real tokens; the rest went mostly to" in how_long
    assert state(record) == "step 10 of 10 (finished; best step 5)"
    assert ("accuracy on test", "0.875", "0.529 to 0.978 (95%)") in key_figures(record)


def test_a_run_that_was_stopped_says_why() -> None:
    events = [START, {**STEP, "step": 3}, {"event": "stopped", "step": 3, "reason": "stop file"}]
    assert state(RunRecord(name="", history=history_of(events))) == "step 3 of 9 (not finished; stopped: stop file)"


def test_the_warnings_are_those_of_the_data_the_run_and_its_alerts_once_each(record: RunRecord) -> None:
    texts = [text for _, text in warnings_of(record)]
    assert texts == [
        "1 step skipped, because the loss or the gradient was non-finite",
        "1 restart: resumed at step 10",
        "leak: 5 rows of test with the same input as a row of train; the scores on test are too good by what the model "
        "has memorized",
        "near duplicates: 2 rows of test nearly the same as a row of train, besides those with the same input",
        "train: 2 rows dropped, because no target was left in them",
        "train: 4 rows skipped as malformed (data.on_bad_row)",
        "loss spike at step 3: loss 3.0 (and 2 more like it, the last at step 8)",
        "optim.weight_decay changes no weight",
        "train: 7 duplicates of earlier rows (7.8%)",
    ]


def test_the_data_card_has_what_was_counted_and_the_lengths(record: RunRecord) -> None:
    parts = data_card(record)
    splits = tables(parts)["Splits"]
    assert splits.head == ("split", "source", "rows", "tokens", "dropped", "truncated", "malformed", "duplicates")
    assert splits.rows[0] == ("train", "/rows/a.csv", "90", "900", "2", "", "4", "7")
    assert tables(parts)["Leaks between splits"].rows == [("test", "train", "5", "b.csv:2 = a.csv:2")]
    assert tables(parts)["Near duplicates between splits"].rows == [("test", "train", "2", "b.csv:3 ~ a.csv:4 (0.91)")]
    assert tables(parts)["Labels"].rows == [("x", "50"), ("y", "40")]
    (figure,) = (part for part in parts if isinstance(part, Figure))
    assert "median 5, longest 20, of 4 examples" in figure.drawings[0]


@pytest.mark.parametrize("fingerprint", ["", "../../etc", "gone"])
def test_without_the_prepared_data_the_card_has_what_the_run_wrote(record: RunRecord, fingerprint: str) -> None:
    assert record.run_dir is not None
    (record.run_dir / "data_fingerprint").write_text(fingerprint)
    again = read_record(record.run_dir)
    assert again.prepared == {} and tables(data_card(again))["Splits"].head == ("split", "source", "rows", "tokens")


def test_what_differs_from_the_defaults_is_listed_and_marked(record: RunRecord) -> None:
    assert record.recipe is not None
    changed = changed_settings(record.recipe)
    assert changed["optim.lr"] == ("0.0003", "5e-05") and changed["model.lora.r"] == ("4", "")
    assert "optim.eps" not in changed and "train.seed" not in changed
    text = "optim:\n  lr: 0.0003\n  betas:\n  - 0.9\n  eps: 1.0e-08\nmodel:\n  lora:\n    r: 4\n"
    marked = settings(RunRecord(name="", history=history_of([]), config=text))[-1]
    assert isinstance(marked, Code) and not any(is_marked for _, is_marked in marked.lines), "it is no whole recipe"
    whole = settings(record)[-1]
    assert isinstance(whole, Code) and whole.title == "config.yaml, all 5 lines"


def test_the_lines_of_a_resolved_recipe_that_differ_are_marked(record: RunRecord) -> None:
    from shardtune.recipe.load import render_recipe

    assert record.recipe is not None
    resolved = RunRecord(name="", history=history_of([]), config=render_recipe(record.recipe))
    code = settings(resolved)[-1]
    assert isinstance(code, Code)
    marked = [line.strip() for line, is_marked in code.lines if is_marked]
    assert "lr: 0.0003" in marked and "r: 4" in marked and "global_batch_size: 16" in marked
    assert not [line for line in marked if line.startswith(("eps", "seed", "kind: adamw"))]


def test_how_to_do_it_again_names_versions_data_and_seed(record: RunRecord) -> None:
    code, text = reproduction(record)
    assert isinstance(code, Code)
    assert code.lines[0][0] == "pip install shardtune==0.1.0 torch==2.13.0"
    assert code.lines[1][0].startswith("shardtune run ") and code.lines[1][0].endswith("config.yaml --run-dir=NEW_DIR")
    assert "fingerprint is abc123" in str(text) and "the seed 0" in str(text)
    rows: Mapping[str, str] = {row[0]: row[1] for row in tables(environment(record))["Machine and versions"].rows}
    assert rows["torch"] == "2.13.0+cpu" and rows["ranks"] == "2 on cpu"


def test_a_confusion_matrix_is_shaded_by_rows_and_a_large_one_listed(record: RunRecord) -> None:
    found = tables(results(record))
    assert found["Confusion matrix on test"].shades == [[0.75, 0.25], [0.0, 1.0]]
    assert found["Classes on test"].rows[0] == ("x", "1.0000", "0.7500", "0.8571", "4", "3")
    large = [[0] * 40 for _ in range(40)]
    large[3][5], large[7][7], large[3][3] = 9, 4, 1
    scored = RunRecord(name="", history=history_of([]), results={"dev": {"confusion": large}})
    assert tables(results(scored))["Largest confusions on dev, of 40 labels"].rows == [("3", "5", "9", "90.0%")]


def test_whatever_has_numbers_by_name_is_a_table() -> None:
    scored = {"languages": {"zh": {"f1": 0.5, "rows": 3}, "en": {"f1": 1.0}}, "thresholds": {"a": 0.25}}
    found = tables(results(RunRecord(name="", history=history_of([]), results={"test": scored})))
    assert found["Languages on test"].rows == [("zh", "0.5000", "3"), ("en", "1.0000", "–")]
    assert found["Thresholds on test"].rows == [("a", "0.2500")]


def test_of_very_many_evaluations_the_first_and_last_are_listed() -> None:
    events = [{**EVAL, "step": step, "confusion": None} for step in range(500)]
    (table,) = tables(evaluations(RunRecord(name="", history=history_of(events)))).values()
    assert len(table.rows) == 60 and table.rows[-1][1] == "499" and "of 500" in table.note


def test_plan_and_reality_are_compared_by_the_steps_of_the_newest_start() -> None:
    old, new = ({**STEP, "step": at, "step_time_s": time} for at, time in ((1, 100.0), (2, 2.0)))
    events = [START, old, {**START, "step": 1}, new]
    found = tables(time_parts(RunRecord(name="", history=history_of(events), plan={"step_s": 1.0})))
    assert ("time of a step", "1.000 s", "2.000 s", "-50%") in found["Predicted and real"].rows


def test_axes_count_the_tokens_and_the_time_of_steps_whatever_the_clock_says() -> None:
    steps = [
        {**STEP, "step": at, "step_time_s": 1800.0, "tokens_per_s": 2.0, "time": time, "epoch": at / 4}
        for at, time in ((2, 5e9), (4, 1.0))
    ]
    axes = axes_of(history_of(steps))
    assert [column.tolist() for column in axes["hours"]] == [[0, 2, 4], [0, 1, 2]]
    assert axes["tokens"][1].tolist() == [0, 7200, 14400] and axes["epoch"][1].tolist() == [0, 0.5, 1]
    assert axes_of(history_of([START])) == {}


def test_what_a_start_reports_of_itself_is_shown(tmp_path: Path) -> None:
    found = {
        "event": "environment",
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "platform": "Linux-6.1",
        "hosts": ["甲", "b"],
        "devices": {"NVIDIA H100": 16},
        "git": {"commit": "0123abc", "dirty": True, "remote": None},
    }
    lengths = {"train": {"edges": [3, 8, 13], "counts": [5, 2]}, "dev": {"edges": [], "counts": []}}
    events = [found, {**START, "device": "cuda", "lengths": lengths}, {**STEP, "step": 1}]
    record = read_record(write_run(tmp_path, events, config_yaml=CONFIG))
    rows = {row[0]: row[1] for row in tables(environment(record))["Machine and versions"].rows}
    assert rows["git commit"] == "0123abc, with changes that are not committed"
    assert (rows["hosts"], rows["devices"], rows["torch"]) == ("甲, b", "16 x NVIDIA H100", "2.13.0")
    assert "in commit 0123abc" in str(reproduction(record)) and "(NVIDIA H100; " in " ".join(summary(record))
    (figure,) = (part for part in data_card(record) if isinstance(part, Figure))
    assert len(figure.drawings) == 1 and "longest 12, of 7 examples" in figure.drawings[0]


def test_what_was_blended_is_a_sentence_a_curve_for_each_metric_and_a_table(record: RunRecord) -> None:
    def point(alpha: float, dev: float, test: float, other: float) -> dict[str, Any]:
        intervals = {"accuracy": [test - 0.1, test + 0.1]}
        of_test = {"accuracy": test, "intervals": intervals}
        return {
            "alpha": alpha, "dev": {"accuracy": dev}, "test": of_test, "retention": {"text": {"perplexity": other}}
        }  # fmt: skip

    assert blending(record) == []
    found = {
        "best": 0.5,
        "rule": "by the highest accuracy on dev",
        "metric": "accuracy",
        "retention": {"text": {"metric": "perplexity", "lower_is_better": True}},
        "alphas": [point(0, 0.5, 0.4, 9.0), point(0.5, 0.75, 0.625, 9.5), point(1, 0.7, 0.6, 30.0)],
        "kept": ["classifier.weight"],
    }
    text, figure, table = blending(replace(record, blend=found))
    assert isinstance(text, Text) and isinstance(figure, Figure) and isinstance(table, Table)
    assert text.paragraphs[0] == (
        "Between the base model (alpha 0) and the tuned one (alpha 1), alpha 0.5 is the best by the highest accuracy "
        "on dev."
    )
    assert "classifier.weight" in text.paragraphs[1]
    assert len(figure.drawings) == 2
    assert "accuracy over alpha" in figure.drawings[0] and "perplexity over alpha" in figure.drawings[1]
    assert table.head == ("alpha", "dev accuracy", "test accuracy", "text perplexity")
    assert table.rows[1] == ("0.5 (best)", "0.7500", "0.6250 [0.5250, 0.7250]", "9.5000")
