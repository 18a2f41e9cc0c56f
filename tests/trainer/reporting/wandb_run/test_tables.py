"""Samples, confusion matrices and histograms, as they are at hand."""

from typing import Any

from shardtune.trainer.reporting.wandb_run.tables import ConfusionTable, Counts, SampleTable, Tables


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
