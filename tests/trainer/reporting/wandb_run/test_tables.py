"""Samples, confusion matrices and histograms, as they are at hand."""

from typing import Any

import pytest

from shardtune.run_dir.quality.worst_rows import WorstRow, WorstRows
from shardtune.trainer.reporting.wandb_run.tables import ConfusionTable, Counts, SampleTable, Tables, worst_table
from tests.support.retained_run import events, results


def evaluated(step: int, *answers: str, **values: Any) -> dict[str, Any]:
    shown = [{"prompt": f"p{n}", "answer": text, "reference": f"r{n}"} for n, text in enumerate(answers)]
    return {"split": "dev", "step": step, "answers": shown, **values}


def test_the_answers_of_an_evaluation_are_a_table_and_those_of_first_and_last_another() -> None:
    tables = Tables()
    assert tables.of("eval", evaluated(0, "a", "b")) == {
        "eval/dev/answers": SampleTable(["prompt", "answer", "reference"], [["p0", "a", "r0"], ["p1", "b", "r1"]])
    }
    assert tables.before_after() is None
    tables.of("eval", evaluated(5, "A", "B"))
    assert tables.before_after() == SampleTable(
        ("prompt", "reference", "before", "after"), [["p0", "r0", "a", "A"], ["p1", "r1", "b", "B"]]
    )


def test_a_confusion_matrix_has_the_names_of_the_labels() -> None:
    found = Tables(["no", "yes"]).of("eval", {"split": "dev", "step": 1, "confusion": [[3, 1], [0, 4]]})
    rows = [("no", "no", 3), ("no", "yes", 1), ("yes", "no", 0), ("yes", "yes", 4)]
    assert found == {"eval/dev/confusion": ConfusionTable(rows)}
    several = {"split": "dev", "step": 1, "confusion": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]}
    assert Tables().of("eval", several) == {}, "a matrix for each label is no single table"
    large = {"split": "dev", "step": 1, "confusion": [[0] * 51] * 51}
    assert Tables().of("eval", large) == {}


def test_lengths_are_histograms() -> None:
    start = {"step": 0, "lengths": {"train": {"edges": [1, 5, 9], "counts": [3, 4]}}}
    assert Tables().of("start", start) == {"data/lengths_train": Counts([1, 5, 9], [3, 4])}


def test_what_became_of_each_retention_set_is_a_table_at_the_end() -> None:
    tables = Tables(["bad", "good"])
    for each in events():
        assert not tables.of(each["event"], each)
    table = tables.retained(results())
    assert table is not None and table.columns == ("set", "task", "metric", "before", "best", "last", "change")
    assert table.rows[2][:5] == ["wiki", "masked_lm", "perplexity", 12.0, pytest.approx(17.4)]
    assert Tables().retained({"best_step": 1}) is None


def test_answers_and_confusions_of_a_retention_set_are_its_own() -> None:
    shown = [{"prompt": "p", "answer": "a"}]
    values = {
        "event": "retention",
        "set": "news",
        "metric": "f1",
        "step": 1,
        "confusion": [[1, 0], [0, 1]],
        "answers": shown,
    }
    found = Tables(["no", "yes"]).of("retention", values)
    assert found["retention/news/answers"] == SampleTable(["prompt", "answer"], [["p", "a"]])
    confusion = found["retention/news/confusion"]
    assert isinstance(confusion, ConfusionTable) and confusion.rows[0] == ("0", "0", 1), "labels of another task"


def test_the_worst_rows_are_a_table_with_their_columns() -> None:
    worst = WorstRows([WorstRow("a:2", 3.0, {"text": "x", "label": "y"}), WorstRow("a:1", 2.0)], 9)
    assert worst_table(worst) == SampleTable(
        ("loss", "text", "label", "place"), [[3.0, "x", "y", "a:2"], [2.0, "", "", "a:1"]]
    )
    assert worst_table(WorstRows([], 0)) is None
