"""Classification: label names from the data, a loss that is a sum, metrics that are scikit-learn's."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sklearn.metrics
import torch
import transformers
from torch import Tensor

from shardtune.errors import DataError
from shardtune.recipe.tasks.classification import ClassificationOptions
from shardtune.rows.source import Row
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.example import IGNORED, TRUNCATED
from shardtune.trainer.tasks.run_survey import survey

OPTIONS = ClassificationOptions(kind="classification")


def rows(*pairs: tuple[Any, Any]) -> list[Row]:
    return [Row({"text": text, "label": label}, Path("r.jsonl"), line) for line, (text, label) in enumerate(pairs, 1)]


def task(num_labels: int = 3) -> Classification:
    facts = {"label_names": [f"l{at}" for at in range(num_labels)], "has_pairs": False}
    return Classification(OPTIONS, facts, SimpleNamespace(pad_token="[PAD]"), SimpleNamespace())  # type: ignore[arg-type]


def output(logits: Tensor) -> Any:
    return SimpleNamespace(logits=logits)


def test_label_names_come_from_the_training_rows_sorted() -> None:
    facts = survey(Classification, OPTIONS, {"train": rows(("a", "pos"), ("b", "neg"), ("c", "pos"))})
    assert facts["label_names"] == ["neg", "pos"]
    assert facts["label_counts"] == {"train": {"pos": 2, "neg": 1}}


def test_whole_numbers_are_labels_too() -> None:
    assert survey(Classification, OPTIONS, {"train": rows(("a", 1), ("b", 0))})["label_names"] == ["0", "1"]


def test_the_recipe_may_fix_the_order_of_the_labels() -> None:
    options = ClassificationOptions(kind="classification", label_names=("pos", "neg"))
    assert survey(Classification, options, {"train": rows(("a", "neg"), ("b", "pos"))})["label_names"] == ["pos", "neg"]


@pytest.mark.parametrize(
    ("train", "dev", "message"),
    [
        ([("a", "x"), ("", "y")], [], "r.jsonl:2: text is empty"),
        ([("a", "x"), ("  ", "y")], [], "r.jsonl:2: text is empty"),
        ([("a", "x"), (7, "y")], [], "r.jsonl:2: text: expected a text, got 7"),
        ([("a", "x"), ("b", None)], [], "r.jsonl:2: no label"),
        ([("a", "x"), ("b", [1])], [], r"r.jsonl:2: label: expected a name or a whole number, got \[1\]"),
        ([("a", "x"), ("b", 0.5)], [], "r.jsonl:2: label: expected a name or a whole number, got 0.5"),
        ([("a", "x"), ("b", "y")], [("c", "z")], "r.jsonl:1: label 'z' is not in the training rows; legal: x, y"),
        ([("a", "x"), ("b", "x")], [], "r.jsonl: every row has the label 'x'; a classifier needs at least two"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_named(train: Any, dev: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        survey(Classification, OPTIONS, {"train": rows(*train)} | ({"dev": rows(*dev)} if dev else {}))


def test_a_missing_column_is_reported_once_with_the_columns_found() -> None:
    bare = [Row({"review": "a", "stars": 1}, Path("r.csv"), line) for line in range(1, 100)]
    with pytest.raises(DataError) as raised:
        survey(Classification, OPTIONS, {"train": bare})
    assert str(raised.value).startswith("r.csv: no columns 'text', 'label'; found: review, stars.")
    assert len(str(raised.value).splitlines()) == 1


def test_the_loss_is_a_sum_over_targets() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, IGNORED, 1])
    whole = task().loss_sum(output(logits), Batch({}, labels))
    parts = sum(task().loss_sum(output(logits[at : at + 1]), Batch({}, labels[at : at + 1])) for at in range(4))
    assert whole == pytest.approx(float(parts))
    assert whole == pytest.approx(float(-logits.log_softmax(-1)[[0, 1, 3], [0, 2, 1]].sum()))


@pytest.mark.parametrize("seed", range(5))
def test_metrics_of_summed_scores_are_those_of_scikit_learn(seed: int) -> None:
    torch.manual_seed(seed)
    logits, labels = torch.randn(200, 3), torch.randint(0, 3, (200,))
    parts = [slice(0, 1), slice(1, 77), slice(77, 200)]
    scores = [task().score(output(logits[part]), Batch({}, labels[part])) for part in parts]
    metrics = task().metrics({name: sum(score[name] for score in scores) for name in scores[0]})
    found = logits.argmax(-1)
    assert metrics["accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(labels, found))
    assert metrics["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(labels, found, average="macro"))
    assert metrics["f1_micro"] == pytest.approx(sklearn.metrics.f1_score(labels, found, average="micro"))
    assert metrics["mcc"] == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, found))
    assert metrics["confusion"] == sklearn.metrics.confusion_matrix(labels, found).tolist()


def test_a_label_that_is_neither_true_nor_predicted_counts_in_no_mean() -> None:
    labels = torch.tensor([0, 0, 1])
    metrics = task().metrics(task().score(output(torch.eye(3)[labels]), Batch({}, labels)))
    assert metrics["f1_macro"] == 1.0


def test_muted_rows_are_not_scored() -> None:
    score = task().score(output(torch.randn(3, 3)), Batch({}, torch.tensor([IGNORED, 1, IGNORED])))
    assert int(score["confusion"].sum()) == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pair", [None, "good", "good bad " * 9])
def test_the_tokens_that_truncation_takes_are_counted(tiny: Path, pair: str | None, side: str) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny / "encoder", truncation_side=side)
    facts = {"label_names": ["a", "b"], "has_pairs": pair is not None}
    classification = Classification(OPTIONS, facts, tokenizer, SimpleNamespace())  # type: ignore[arg-type]
    texts = ["good", "bad " * 30, "good bad " * 40]
    values = [{"text": text, "label": "a"} | ({"text_pair": pair} if pair else {}) for text in texts]
    whole = [len(tokenizer(text, pair)["input_ids"]) for text in texts]
    for max_tokens in (24, min(whole), max(whole), 200):
        by_row = classification.encode(
            [Row(row_values, Path("r"), 1) for row_values in values], max_tokens, labeled=True
        )
        lost = [example.get(TRUNCATED, 0) for (example,) in by_row]
        assert lost == [max(0, length - max_tokens) for length in whole]
