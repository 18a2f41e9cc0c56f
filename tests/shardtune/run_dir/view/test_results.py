"""A finished run shows its metrics as a table that fits a pipe of 80 columns, the time it took, and its paths."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.run_dir.view.results import finished_message, in_words, render_metrics, render_time, start_spans
from tests.support.retained_run import write_retained_run

CHOSEN = {"metric": "accuracy", "lower_is_better": False}
CLASSIFICATION = {
    "step": 1800,
    "best_step": 1200,
    "dev": {"loss": 0.72306, "accuracy": 0.58621, "mcc": 0.0, "confusion": [[3, 10], [2, 14]]},
    "chosen_by": CHOSEN,
    "test": {"loss": 0.79376, "accuracy": 0.41935, "mcc": -0.20119, "confusion": [[0, 17], [1, 13]]},
}


def test_a_table_has_a_row_for_each_metric_and_a_column_for_each_split() -> None:
    assert (
        render_metrics(CLASSIFICATION)
        == """\
               dev       test
accuracy    0.5862     0.4194
loss        0.7231     0.7938
mcc         0.0000    -0.2012"""
    )


RATES = {"precision": 0.5, "recall": 0.25, "f1": 0.125}
OTHER_TASKS: dict[str, dict[str, Any]] = {
    "multi-label": {"dev": {"f1_micro": 0.5, "per_label": {"a": {"tp": 1}}, "thresholds": {"a": 0.5}}},
    "regression": {"dev": {"mse": 2.5e-07, "pearson": 1.0}},
    "token classification": {"dev": {**RATES, "token_accuracy": 0.75, "types": {"PER": {**RATES, "found": 4}}}},
    "translation": {"dev": {"perplexity": 12.5, "bleu": 31.25, "bleu_signature": "nrefs:1|case:mixed|v:2.6.0"}},
    "chat": {"dev": {"loss": math.nan, "rouge_l": 0.5, "answers": []}, "test": {"perplexity": 2.5e7}},
    "language modeling": {"dev_at_start": {"perplexity": 40.5}, "test": {"perplexity": 12.5}},
}


@pytest.mark.parametrize("task", OTHER_TASKS)
def test_only_single_numbers_of_a_task_are_in_the_table(task: str) -> None:
    table = render_metrics(OTHER_TASKS[task])
    assert all(len(line) <= 80 and line == line.rstrip() for line in table.splitlines())
    numbers = {
        name for split in OTHER_TASKS[task].values() for name, value in split.items() if isinstance(value, float)
    }
    assert {line.split()[0] for line in table.splitlines()[1:]} == numbers


def test_a_number_is_readable_at_any_size_and_a_split_without_a_metric_has_none() -> None:
    assert "mse        2.500e-07" in render_metrics(OTHER_TASKS["regression"])
    assert (
        render_metrics(OTHER_TASKS["chat"])
        == """\
                 dev         test
loss             nan
rouge_l       0.5000
perplexity              2.500e+07"""
    )
    assert "test    dev before training" in render_metrics(OTHER_TASKS["language modeling"])


def test_a_run_without_dev_and_test_has_no_table() -> None:
    assert render_metrics({"step": 3, "best_step": 3}) == ""


def event(kind: str, time: float, **more: Any) -> dict[str, Any]:
    return {"event": kind, "time": time, **more}


THREE_STARTS = [
    event("phase", 990.0, name="loading the model"),
    event("start", 1000.0, step=0),
    event("step", 1050.0, step=1),
    event("phase", 1060.0, name="saving a checkpoint"),
    event("alert", 5000.0, title="the next start passes a checkpoint over", step=1),
    event("start", 5010.0, step=1),
    event("checkpoint", 5020.0, step=2),
    event("start", 9000.0, step=2),
    event("done", 9010.0, step=3),
]


def test_the_time_of_a_start_is_that_of_its_steps_and_not_that_between_two_starts() -> None:
    assert start_spans(THREE_STARTS) == [(1000.0, 1050.0), (5010.0, 5020.0), (9000.0, 9010.0)]
    assert start_spans([]) == []


@pytest.mark.parametrize(
    ("began", "now", "words"),
    [
        (980.0, 13_780.0, "3 h 33 min in 3 starts"),  # one command, which started its ranks three times
        (4990.0, 9020.0, "1 h 7 min in 2 starts; about 1 h 8 min with 1 start before"),
        (8990.0, 9020.0, "30 s; about 1 min 30 s with 2 starts before"),
        (None, 9020.0, "about 1 min 10 s in 3 starts"),
    ],
)
def test_the_time_is_that_of_the_command_and_of_all_starts_together(
    began: float | None, now: float, words: str
) -> None:
    assert render_time(THREE_STARTS, began, now) == words


def test_a_time_is_in_the_units_that_fit_it() -> None:
    assert [in_words(seconds) for seconds in (0.2, 59.4, 59.6, 3599.0, 3600.0, 360_000.0)] == [
        "0 s", "59 s", "1 min 0 s", "59 min 59 s", "1 h 0 min", "100 h 0 min",
    ]  # fmt: skip


RECIPE = "task: {{kind: {kind}}}\nmodel: {{path: org/name}}\ndata: {{train: train.csv}}\n"


@pytest.mark.parametrize("kind", ["classification", "chat"])
def test_the_message_names_everything_a_run_has_made(tmp_path: Path, kind: str) -> None:
    (tmp_path / "results.json").write_text(json.dumps(CLASSIFICATION))
    message = finished_message(parse_recipe(RECIPE.format(kind=kind), name="x.yaml"), tmp_path, began=0.0)
    first, empty, _, *lines = message.splitlines()
    assert (first, empty) == (f"finished: {tmp_path}", "")
    assert "best step   1,200 of 1,800: highest accuracy on dev" in lines
    for line in ("best model  {}/export/best", "last model  {}/export/last", "results     {}/results.json"):
        assert line.format(tmp_path) in lines
    assert (lines[-1] == f"talk to it  shardtune chat {tmp_path}") == (kind == "chat")
    assert "[" not in message and "{" not in message and "\x1b" not in message


def test_a_run_that_was_finished_before_says_so_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"step": 3, "best_step": 3}')
    message = finished_message(parse_recipe(RECIPE.format(kind="chat"), name="x.yaml"), tmp_path)
    assert message.splitlines()[:2] == [
        f"{tmp_path} is already finished (results.json exists); "
        "to train it again, give another --run-dir or train.seed",
        "best step   3 of 3: the last one, because there is no dev split to choose by",
    ]


def test_what_is_retained_stands_under_the_metrics(tmp_path: Path) -> None:
    run_dir = write_retained_run(tmp_path / "run")
    recipe = parse_recipe((run_dir / "config.yaml").read_text(), name="config.yaml")
    message = finished_message(recipe, run_dir)
    assert message.index("accuracy") < message.index("retention") < message.index("wiki: perplexity")
    assert message.index("wiki: perplexity") < message.index("best step")
