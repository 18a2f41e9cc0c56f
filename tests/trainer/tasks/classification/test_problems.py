"""Several labels, numbers, pairs, weights: the labels, loss and metrics of each problem, on any number of ranks."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import cross_entropy

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.tasks.classification import METRICS, ClassificationOptions
from shardtune.rows.source import Row, read_rows
from shardtune.trainer.commands.predict import predict
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.evaluation.evaluate import add
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.classification.classification import Classification
from shardtune.trainer.tasks.classification.multi_label import best_threshold
from shardtune.trainer.tasks.classification.problems import PROBLEMS
from shardtune.trainer.tasks.classification.regression import rank_correlation
from shardtune.trainer.tasks.example import IGNORED
from shardtune.trainer.tasks.run_survey import survey
from shardtune.trainer.tasks.task import PerExample
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.tiny import BAD, GOOD, PLAIN

NAMES = ["a", "b", "c", "d"]


def options(**keys: Any) -> ClassificationOptions:
    return ClassificationOptions(kind="classification", **keys)


def task(facts: Mapping[str, Any], tokenizer: Any = None, **keys: Any) -> Classification:
    anything = SimpleNamespace(pad_token="[PAD]", pad_token_id=0, model_input_names=["input_ids"])
    return Classification(options(**keys), {"has_pairs": False, **facts}, tokenizer or anything, anything)


def multi_label(**keys: Any) -> Classification:
    return task({"label_names": NAMES}, problem="multi_label", **keys)


def regression(mean: float = 0.0) -> Classification:
    return task({"label_mean": mean}, problem="regression")


def output(logits: Tensor) -> Any:
    return SimpleNamespace(logits=logits)


def rows(*labels: Any, name: str = "r.jsonl") -> list[Row]:
    return [Row({"text": "t", "label": label}, Path(name), line) for line, label in enumerate(labels, 1)]


def summed(scores: Any) -> dict[str, Any]:
    """The totals as an evaluation passes them to the metrics."""
    return {name: score.values if isinstance(score, PerExample) else score for name, score in scores.items()}


def in_parts(classification: Classification, logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """The metrics of these rows when they come in three batches, one of them muted."""
    batches = [(logits[part], Batch({}, labels[part])) for part in (slice(0, 1), slice(1, 77), slice(77, None))]
    batches.insert(1, (logits[:2], Batch({}, labels[:2]).muted()))
    totals: dict[str, Any] = {}
    for some, batch in batches:
        add(totals, classification.score(output(some), batch))
    return classification.metrics(summed(totals))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"problem": "regression", "label_smoothing": 0.1}, "label_smoothing does not apply to problem regression"),
        ({"problem": "regression", "label_names": ("a", "b")}, "label_names does not apply to problem regression"),
        ({"problem": "multi_label", "class_weights": "balanced"}, "class_weights does not apply to problem multi_l"),
        ({"threshold": 0.4}, "threshold does not apply to problem single_label, only to multi_label; remove it"),
        ({"label_names": ("a", "b"), "class_weights": {"c": 2.0}}, "class_weights: c: not in label_names"),
        ({"label_names": ("a", "b", "a")}, "label_names: a name is listed twice"),
        ({"class_weights": "even"}, "balanced"),
        ({"class_weights": {"a": 0.0}}, "greater than 0"),
    ],
)
def test_keys_that_do_not_apply_to_the_problem_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        options(**keys)


def test_a_recipe_with_such_keys_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError) as raised:
        tiny_recipe(Path("x"), "task={kind: classification, problem: regression, threshold: 0.3}")
    assert "threshold does not apply to problem regression" in str(raised.value)
    with pytest.raises(ConfigError) as raised:
        tiny_recipe(Path("x"), "task={kind: classification, class_weights: {a: -1}}")
    assert str(raised.value).count("\n") == 0 and "class_weights.a: must be above 0, got -1" in str(raised.value)


def test_labels_are_a_list_or_a_text_of_names_and_an_empty_one_is_legal() -> None:
    splits = {"train": rows(["x", "y"], [], "y, z", "", ["y", "y", 7])}
    facts = survey(Classification, options(problem="multi_label"), splits)
    assert facts["label_names"] == ["7", "x", "y", "z"]
    assert facts["label_counts"] == {"train": {"x": 1, "y": 3, "z": 1, "7": 1}}
    bars = survey(Classification, options(problem="multi_label", label_separator="|"), {"train": rows("x|a,b", "y")})
    assert bars["label_names"] == ["a,b", "x", "y"]


def test_numbers_may_be_text_as_they_are_in_a_csv() -> None:
    facts = survey(Classification, options(problem="regression"), {"train": rows(1, " -2.5 ", 3e0), "dev": rows(-100)})
    assert facts == {"has_pairs": False, "label_mean": 0.5, "label_ranges": {"train": [-2.5, 3], "dev": [-100, -100]}}


@pytest.mark.parametrize(
    ("problem", "train_labels", "dev_labels", "message"),
    [
        ("multi_label", (["x"], ["y", 0.5]), (), "r.jsonl:2: label: expected a name or a whole number, got"),
        ("multi_label", (["x"], ["y", " "]), (), "r.jsonl:2: label: expected a name or a whole number, got"),
        ("multi_label", (["x"], 3), (), "r.jsonl:2: label: expected a list of names, or a text of names separated by"),
        ("multi_label", (["x"], None), (), "r.jsonl:2: no label"),
        ("multi_label", (["x"], ["y"]), (["x", "z"],), "r.jsonl:1: label 'z' is not in the training rows; legal: x, y"),
        ("multi_label", (["x"], []), (), "the number of labels in the rows is 1; a classifier needs at least two"),
        ("regression", (1, "much"), (), "r.jsonl:2: label: expected a number, got 'much'"),
        ("regression", (1, True), (), "r.jsonl:2: label: expected a number, got True"),
        ("regression", (1, "nan"), (), "r.jsonl:2: label: expected a number, got 'nan'"),
        ("regression", (1, 1e39), (), "r.jsonl:2: label: expected a number, got 1e\\+39"),
        ("regression", (1, 10**400), (), "r.jsonl:2: label: expected a number, got 1000"),
        ("regression", (1, [2]), (), r"r.jsonl:2: label: expected a number, got \[2\]"),
        ("regression", (1, None), (), "r.jsonl:2: no label"),
        ("regression", (2, 2.0), (), "every row has the label 2; there is nothing to learn"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(
    problem: str, train_labels: Any, dev_labels: Any, message: str
) -> None:
    splits = {"train": rows(*train_labels)} | ({"dev": rows(*dev_labels)} if dev_labels else {})
    with pytest.raises(DataError, match=message):
        survey(Classification, options(problem=problem), splits)


def test_a_weight_for_an_unknown_label_is_a_fault() -> None:
    with pytest.raises(DataError, match=r"task\.class_weights: unknown label 'z'; legal: x, y"):
        survey(Classification, options(class_weights={"z": 2.0}), {"train": rows("x", "y")})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_metrics_of_several_labels_are_those_of_scikit_learn(seed: int, threshold: float) -> None:
    torch.manual_seed(seed)
    logits, labels = torch.randn(200, 4) * 2, torch.randint(0, 2, (200, 4))
    labels[:20] = 0
    labels[:, 3] *= seed > 1  # a label that no row has
    metrics = in_parts(multi_label(threshold=threshold), logits, labels)
    true, found = labels.numpy(), (logits.sigmoid() >= threshold).long().numpy()
    for name in ("micro", "macro", "samples"):
        expected = sklearn.metrics.f1_score(true, found, average=name, zero_division=0)
        assert metrics[f"f1_{name}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["subset_accuracy"] == pytest.approx(sklearn.metrics.accuracy_score(true, found))
    cells = sklearn.metrics.multilabel_confusion_matrix(true, found)
    counts = [(label["tp"], label["fp"], label["fn"]) for label in metrics["per_label"].values()]
    assert counts == [(cell[1, 1], cell[0, 1], cell[1, 0]) for cell in cells]


@pytest.mark.parametrize(("mean", "spread"), [(0, 3), (-100, 0.5), (2000, 0.01)])
def test_metrics_of_numbers_are_those_of_scikit_learn_and_scipy(mean: float, spread: float) -> None:
    torch.manual_seed(0)
    labels = torch.randn(200) * spread + mean
    logits = (labels + torch.randn(200) * spread)[:, None]
    metrics = in_parts(regression(mean), logits, labels)
    true, found = labels.double().numpy(), logits[:, 0].double().numpy()
    assert metrics["mse"] == pytest.approx(sklearn.metrics.mean_squared_error(true, found))
    assert metrics["mae"] == pytest.approx(sklearn.metrics.mean_absolute_error(true, found))
    assert metrics["pearson"] == pytest.approx(scipy.stats.pearsonr(true, found).statistic, abs=1e-9)
    assert metrics["spearman"] == pytest.approx(scipy.stats.spearmanr(true, found).statistic, abs=1e-9)


def test_the_rank_correlation_is_scipys_where_many_are_equal() -> None:
    a, b = torch.tensor([1.0, 2, 2, 3, 3, 3, 7]), torch.tensor([2.0, 1, 2, 2, 5, 5, 5])
    assert rank_correlation(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=30))
def test_no_threshold_has_a_better_f1_than_the_tuned_one(rows: list[tuple[int, bool]]) -> None:
    probabilities, true = torch.tensor([p / 8 for p, _ in rows]), torch.tensor([is_true for _, is_true in rows])
    tuned = best_threshold(probabilities, true, fallback=0.25)

    def f1(threshold: float) -> float:
        return float(sklearn.metrics.f1_score(true, probabilities >= threshold, zero_division=0))

    if true.any():
        assert f1(tuned) == pytest.approx(max(f1(at / 16) for at in range(17)))
    else:
        assert tuned == 0.25


def test_tuned_thresholds_are_those_of_dev_and_then_stay() -> None:
    classification = multi_label(tune_thresholds=True)
    torch.manual_seed(0)
    logits, labels = torch.randn(100, 4), torch.randint(0, 2, (100, 4))
    dev = in_parts(classification, logits, labels)
    true, probabilities = labels.numpy(), logits.sigmoid().double().numpy()
    found = probabilities >= [dev["thresholds"][name] for name in NAMES]
    assert dev["f1_macro"] == pytest.approx(sklearn.metrics.f1_score(true, found, average="macro"))
    assert dev["f1_macro"] > in_parts(multi_label(), logits, labels)["f1_macro"]
    classification.calibrate(dev)
    moved = logits - torch.tensor([dev["thresholds"][name] for name in NAMES]).logit()
    assert in_parts(classification, logits, labels)["per_label"] == in_parts(multi_label(), moved, labels)["per_label"]
    assert "thresholds" not in in_parts(classification, logits, labels)
    assert classification.predictions(output(logits), Batch({}, labels))[0]["label"] == [
        name for name, is_found in zip(NAMES, found[0], strict=True) if is_found
    ]


def test_thresholds_cannot_be_tuned_without_dev() -> None:
    with pytest.raises(DataError, match=r"task.tune_thresholds: needs a dev split"):
        survey(Classification, options(problem="multi_label", tune_thresholds=True), {"train": rows(["a"], ["b"])})


@pytest.mark.parametrize("prediction", [0.7, 1 / 3, -1234.567])
def test_the_correlation_of_a_constant_prediction_is_zero(prediction: float) -> None:
    assert in_parts(regression(), torch.full((80, 1), prediction), torch.arange(80.0))["pearson"] == 0.0


@pytest.mark.parametrize(
    ("classification", "labels", "num_outputs"),
    [(multi_label(), torch.randint(0, 2, (6, 4)), 4), (regression(), torch.tensor([-100.0, 1, 2, 0, -3, 9]), 1)],
    ids=["multi_label", "regression"],
)
def test_the_loss_is_a_sum_over_targets_and_a_muted_batch_adds_nothing_to_it(
    classification: Classification, labels: Tensor, num_outputs: int
) -> None:
    logits = torch.randn(6, num_outputs, requires_grad=True)
    whole = classification.loss_sum(output(logits), Batch({}, labels))
    parts = sum(classification.loss_sum(output(logits[at : at + 1]), Batch({}, labels[at : at + 1])) for at in range(6))
    torch.testing.assert_close(whole, parts)
    examples = [{"labels": label} for label in labels.tolist()]
    assert sum(map(classification.num_targets, examples)) == int(Batch({}, labels).targets.sum()) == labels.numel()
    muted = Batch({}, labels).muted()
    loss = classification.loss_sum(output(logits), muted)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not loss.any() and not gradient.any()
    assert not muted.targets.any()


def test_class_weights_have_a_mean_of_one_over_the_training_rows() -> None:
    counts = {"x": 6, "y": 3}
    facts = {"label_names": ["x", "y", "z"], "label_counts": {"train": counts}}
    logits = torch.zeros(3, 3)
    for weights, expected in (("balanced", [0.75, 1.5, 1.0]), ({"y": 4.0}, [0.5, 2.0, 0.5]), ("none", [1, 1, 1])):
        classification = task(facts, class_weights=weights)
        losses = [classification.loss_sum(output(logits[:1]), Batch({}, torch.tensor([label]))) for label in range(3)]
        assert [float(loss) / np.log(3) for loss in losses] == pytest.approx(expected)
        assert sum(expected[at] * counts.get(name, 0) for at, name in enumerate("xyz")) == pytest.approx(9)


def test_smoothing_is_that_of_torch_and_weights_apply_to_the_smoothed_rows() -> None:
    facts = {"label_names": ["x", "y"], "label_counts": {"train": {"x": 1, "y": 1}}}
    logits, labels = torch.randn(4, 2), torch.tensor([0, 1, IGNORED, 1])
    rows_ = cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)
    smoothed = task(facts, label_smoothing=0.2).loss_sum(output(logits), Batch({}, labels))
    both = task(facts, label_smoothing=0.2, class_weights={"y": 3.0}).loss_sum(output(logits), Batch({}, labels))
    assert float(smoothed) == pytest.approx(float(rows_.sum()))
    assert float(both) == pytest.approx(float((rows_ * torch.tensor([0.5, 1.5, 0, 1.5])).sum()))


def test_a_prediction_has_the_form_of_its_column() -> None:
    (several,) = multi_label().predictions(output(torch.tensor([[9.0, -9, 9, 0]])), Batch({}, torch.zeros(1, 4)))
    assert several["label"] == ["a", "c", "d"] and list(several["scores"]) == NAMES
    (number,) = regression().predictions(output(torch.tensor([[1.25]])), Batch({}, torch.zeros(1)))
    assert number == {"label": 1.25}


@pytest.mark.parametrize(
    ("problem", "best", "less_is_more"),
    [("single_label", "accuracy", False), ("multi_label", "f1_micro", False), ("regression", "mse", True)],
)
def test_each_problem_chooses_the_best_model_by_a_metric_of_its_own(
    problem: str, best: str, less_is_more: bool
) -> None:
    classification = task({"label_names": NAMES, "label_mean": 0.0}, problem=problem)
    assert classification.main_metric == best and (best in classification.lower_is_better) == less_is_more
    assert classification.model_config()["num_labels"] == (1 if problem == "regression" else 4)


def write_rows(folder: Path, problem: str) -> Path:
    """25 training rows, so that in the last step of an epoch, of one row, a rank has none; 1 test row."""
    for split, num_rows in (("train", 25), ("dev", 7), ("test", 1)):
        chosen = random.Random(num_rows)
        lines = []
        for _ in range(num_rows):
            words = chosen.choices(GOOD[:2] + BAD[:2] + PLAIN, k=chosen.randint(1, 25))
            several = sorted({word for word in words if word not in PLAIN})
            number = sum((word in GOOD) - (word in BAD) for word in words)
            lines.append({"text": " ".join(words), "label": several if problem == "multi_label" else number})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("problem", ["multi_label", "multi_label, tune_thresholds: true", "regression"])
def test_two_ranks_with_ragged_and_muted_micro_batches_learn_what_one_rank_does(
    tiny: Path, tmp_path: Path, problem: str
) -> None:
    folder = write_rows(tmp_path, problem.partition(",")[0])
    changes = [f"task={{kind: classification, problem: {problem}}}", f"model.path={tiny}/encoder", "train.num_epochs=2"]
    one = train(tiny_recipe(folder, *changes, "engine.deepspeed=zero0"), tmp_path / "one", world_size=1)[1]
    recipe = tiny_recipe(folder, *changes, "train.micro_batch_tokens=64")
    two = train(recipe, tmp_path / "two", world_size=2)[1]
    assert len(curve(one)) == len(curve(two)) == 6
    for (step, loss, norm), (_, other_loss, other_norm) in zip(curve(one), curve(two), strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4), f"loss of step {step}"
        assert norm == pytest.approx(other_norm, rel=1e-3), f"grad_norm of step {step}"
    of_one, of_two = events(tmp_path / "one", "eval"), events(tmp_path / "two", "eval")
    assert [event["split"] for event in of_one] == ["dev", "dev", "test"]
    for event, other in zip(of_one, of_two, strict=True):
        numbers = {name for name, value in event.items() if isinstance(value, float)} - {"time"}
        assert {name: event[name] for name in numbers} == pytest.approx(
            {name: other[name] for name in numbers}, rel=1e-3
        )
        assert event.get("per_label") == other.get("per_label")
    if "tune" in problem:
        assert "thresholds" in of_two[0] and "thresholds" not in of_two[-1]  # tuned on dev, used on test
    if problem == "regression":
        assert all(event["loss"] == pytest.approx(event["mse"], rel=1e-5) for event in of_two)

    facts, model = prepare(recipe).facts, tmp_path / "two" / "export" / "best"
    config = transformers.AutoConfig.from_pretrained(model)
    assert config.problem_type == ("regression" if problem == "regression" else "multi_label_classification")
    texts = [Row({"text": text}, Path("t"), line) for line, text in enumerate(["good film", "bad", "the plot"], 1)]
    labels = [prediction["label"] for prediction in predict(recipe, model, facts, texts)]
    assert all(isinstance(label, float if problem == "regression" else list) for label in labels)


def by_characters(words: Sequence[str]) -> Any:
    """A tokenizer of single characters that marks a second text by token_type_ids."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(set("".join(words)))]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(known)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", model_input_names=inputs
    )


PAIRS = "问题甲,问题乙,相同\n怎么退款?,如何申请退款?,1\n怎么退款?,发货,0\n"


def test_pairs_are_two_segments_and_the_longer_text_is_truncated(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text(PAIRS, encoding="utf-8")
    read = read_rows(tmp_path / "pairs.csv", {"text": "问题甲", "text_pair": "问题乙", "label": "相同"})
    facts = survey(Classification, options(), {"train": read})
    assert facts["has_pairs"] and facts["label_names"] == ["0", "1"]
    tokenizer = by_characters([PAIRS])
    pairs = Classification(options(), facts, tokenizer, transformers.BertConfig())
    examples = [example for (example,) in pairs.encode(read, 10, labeled=True)]
    assert [tokenizer.decode(example["input_ids"]).replace(" ", "") for example in examples] == [
        "[CLS]怎么退[SEP]如何申请[SEP]",
        "[CLS]怎么退款?[SEP]发货[SEP]",
    ]
    assert [example["labels"] for example in examples] == [1, 0]
    batch = pairs.collate(examples)
    assert batch.inputs["token_type_ids"].tolist() == [[0] * 5 + [1] * 5, [0] * 7 + [1] * 3]
    with pytest.raises(DataError, match="x:1: no text_pair; the model was trained on pairs"):
        pairs.encode([Row({"text": "发货"}, Path("x"), 1)], 10, labeled=False)


def test_a_row_without_a_text_pair_among_pairs_is_a_fault() -> None:
    singles = [Row({"text": "a", "label": label}, Path("r.jsonl"), line) for line, label in enumerate("xy", 1)]
    pair = Row({"text": "a", "text_pair": "b", "label": "x"}, Path("r.jsonl"), 3)
    with pytest.raises(DataError, match=r"r.jsonl:1: no text_pair\nr.jsonl:2: no text_pair"):
        survey(Classification, options(), {"train": [*singles, pair]})


def test_a_causal_model_without_a_pad_token_scores_a_row_the_same_alone_and_padded() -> None:
    tokenizer = by_characters(["abcdef"])
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    classification = task({"label_names": NAMES}, tokenizer)
    assert classification.model_config()["pad_token_id"] == tokenizer.eos_token_id == 3
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.LlamaConfig(vocab_size=12, **sizes, **classification.model_config())
    classification.check_model(config)
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    texts = [Row({"text": text}, Path("t"), 1) for text in ("abcdefabc", "b", "fed")]
    examples = [example for (example,) in classification.encode(texts, 32, labeled=False)]
    with torch.no_grad():
        together = model(**classification.collate(examples).inputs).logits
        alone = torch.cat([model(**classification.collate([example]).inputs).logits for example in examples])
    torch.testing.assert_close(together, alone)


def test_models_that_cannot_classify_are_named() -> None:
    with pytest.raises(DataError, match="no classification head for marian models"):
        task({"label_names": NAMES}).check_model(transformers.MarianConfig())
    pairs = task({"label_names": NAMES, "has_pairs": True}, by_characters(["ab"]))
    pairs.check_model(transformers.BertConfig())
    with pytest.raises(DataError, match="LlamaForSequenceClassification takes none"):
        pairs.check_model(transformers.LlamaConfig())
    nothing = SimpleNamespace(pad_token=None, eos_token=None, model_input_names=["input_ids"])
    with pytest.raises(DataError, match="no pad_token and no eos_token"):
        task({"label_names": NAMES}, nothing).check_model(transformers.BertConfig())


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_metrics_that_a_recipe_may_name_are_those_that_are_numbers(problem: str) -> None:
    chosen = PROBLEMS[problem](options(problem=problem), {"label_names": NAMES, "label_mean": 0.0})
    labels = {"single_label": [0, 1], "multi_label": [[0, 1, 0, 0], [1, 0, 0, 1]], "regression": [0.5, 2.0]}[problem]
    width = 1 if problem == "regression" else 4
    scores = chosen.score(torch.randn(2, width), Batch({}, torch.tensor(labels)))
    metrics = chosen.metrics(summed(scores))
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(METRICS[problem])
    assert chosen.main_metric in METRICS[problem]
