"""A pretrained head is kept with its own labels, or dropped and said so; its labels decide the order of the task's."""

import json
from pathlib import Path
from typing import Any

import deepspeed
import numpy as np
import pytest
import torch
import transformers

from shardtune.ds_config.resolve import load_ds_config, resolve_ds_config
from shardtune.errors import ConfigError, DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.check import check
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine, sharded_birth
from shardtune.trainer.engine.optimizers import OPTIMIZERS
from shardtune.trainer.model.head import choose_head
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import task_of
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe
from tests.support.tiny import write_encoder

MOODS = ["positive", "negative", "neutral"]
TAGS = ["O", "B-MISC", "I-MISC", "B-PER", "I-PER", "B-LOC", "I-LOC"]
NER = "task={kind: token_classification}"


def write_head(folder: Path, kind: str, labels: list[str], **config: Any) -> torch.Tensor:
    """Gives the tiny encoder a head of this kind with these labels; returns the weights of the head."""
    write_encoder(folder / "encoder")
    labels_of = {"id2label": dict(enumerate(labels)), "label2id": {name: at for at, name in enumerate(labels)}}
    model = getattr(transformers, kind).from_pretrained(folder / "encoder", **labels_of, **config)
    with torch.no_grad():
        model.classifier.weight.normal_()
    model.save_pretrained(folder / "encoder")
    weight: torch.Tensor = model.classifier.weight.detach()
    return weight


def write_rows(folder: Path, rows: list[dict[str, Any]]) -> None:
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_moods(folder: Path, labels: list[Any]) -> None:
    texts = [f"the film was {word}" for word in "abcdef"][: 2 * len(labels)]
    write_rows(folder, [{"text": text, "label": label} for text, label in zip(texts, labels * 2, strict=True)])


def write_words(folder: Path) -> None:
    tags = ["B-PER", "O", "B-LOC"], ["B-MISC", "I-MISC", "O"]
    write_rows(folder, [{"tokens": ["film", "was", "plot"], "tags": list(row)} for row in tags])


def loaded(recipe: Recipe) -> tuple[Any, list[str]]:
    """The model as it is trained, and what was said of it."""
    notes: list[str] = []
    prepared = prepare(recipe, say=notes.append)
    tokenizer = load_tokenizer(recipe)
    task = task_of(recipe, prepared.facts, tokenizer, load_model_config(recipe))
    return load_model(recipe, task, tokenizer, say=notes.append), notes


@pytest.mark.parametrize("lora", ["model.lora=null", "model.lora={r: 2}"])
def test_labels_take_the_order_of_a_head_with_the_same_names(tmp_path: Path, lora: str) -> None:
    weight = write_head(tmp_path, "BertForSequenceClassification", MOODS)
    write_moods(tmp_path, ["negative", "neutral", "positive"])
    model, notes = loaded(tiny_recipe(tmp_path, lora))
    assert model.config.id2label == dict(enumerate(MOODS))
    assert torch.equal(model.classifier.weight, weight)
    assert [note for note in notes if note.startswith(("model.head", "the labels"))] == [
        "the labels have the order of the model's head: positive, negative, neutral"
    ]


def test_tags_take_the_order_of_a_head_with_the_same_names(tmp_path: Path) -> None:
    weight = write_head(tmp_path, "BertForTokenClassification", TAGS)
    write_words(tmp_path)
    recipe = tiny_recipe(tmp_path, NER)
    model, notes = loaded(recipe)
    assert model.config.id2label == dict(enumerate(TAGS))
    assert torch.equal(model.classifier.weight, weight)
    train = prepare(recipe).split("train")
    assert train is not None
    labels = [label for label in train.examples(np.array([0]))[0]["labels"] if label >= 0]
    assert [TAGS[label] for label in labels] == ["B-PER", "O", "B-LOC"]
    assert sum("order of the model's head" in note for note in notes) == 1


@pytest.mark.parametrize("lora", ["model.lora=null", "model.lora={r: 2}"])
@pytest.mark.parametrize(
    ("kind", "head", "labels", "said"),
    [
        ("BertForSequenceClassification", [f"LABEL_{at}" for at in range(5)], MOODS[:2], "has 5 labels without names"),
        ("BertForSequenceClassification", ["joy", "anger"], MOODS[:2], "has 2 labels (joy, anger)"),
        ("BertForSequenceClassification", ["LABEL_0"], MOODS[:2], "has 1 label without names"),
        ("BertForSequenceClassification", MOODS, ["1.5", "2.5", "3.5"], "has 3 labels (positive, negative, neutral)"),
    ],
)
def test_another_head_is_dropped_and_said_so(
    tmp_path: Path, kind: str, head: list[str], labels: list[str], said: str, lora: str
) -> None:
    weight = write_head(tmp_path, kind, head)
    write_moods(tmp_path, labels)
    model, notes = loaded(tiny_recipe(tmp_path, lora))
    assert model.classifier.weight.shape == (len(labels), 32)
    assert not torch.equal(model.classifier.weight, weight)
    assert model.classifier.weight.requires_grad
    (note,) = [note for note in notes if note.startswith(("model.head", "the labels"))]
    assert note.startswith(f"model.head: the pretrained head {said}, and the task has ")
    assert note.endswith("a new head is drawn")


def test_a_head_of_another_scheme_is_dropped_and_said_so(tmp_path: Path) -> None:
    write_head(tmp_path, "BertForTokenClassification", ["O", "LOC", "MISC", "PER"])
    write_words(tmp_path)
    model, notes = loaded(tiny_recipe(tmp_path, NER))
    assert model.classifier.out_features == 7
    (note,) = [note for note in notes if note.startswith(("model.head", "the labels"))]
    assert "4 labels (O, LOC, MISC, PER), and the task has 7 labels (O, B-LOC, I-LOC, " in note


def test_the_head_of_another_task_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """Both are called `classifier`, and have the same shape."""
    weight = write_head(tmp_path, "BertForTokenClassification", ["positive", "negative"])
    write_moods(tmp_path, MOODS[:2])
    model, _ = loaded(tiny_recipe(tmp_path))
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert not torch.equal(model.classifier.weight, weight)


def test_a_regression_keeps_a_head_of_one_output_and_no_other(tmp_path: Path) -> None:
    write_moods(tmp_path, [0.5, 2, 3])
    regression = "task={kind: classification, problem: regression}"
    weight = write_head(tmp_path, "BertForSequenceClassification", ["LABEL_0"])
    model, notes = loaded(tiny_recipe(tmp_path, regression))
    assert torch.equal(model.classifier.weight, weight)
    assert not [note for note in notes if note.startswith(("model.head", "the labels"))]
    write_head(tmp_path, "BertForSequenceClassification", MOODS)
    model, notes = loaded(tiny_recipe(tmp_path, regression))
    assert model.classifier.out_features == 1
    assert [note for note in notes if note.startswith(("model.head", "the labels"))] == [
        "model.head: the pretrained head has 3 labels (positive, negative, neutral), and the task has a number: a new "
        "head is drawn"
    ]


def test_a_head_without_names_is_kept_in_the_order_of_the_rows_and_said_so(tmp_path: Path) -> None:
    weight = write_head(tmp_path, "BertForSequenceClassification", ["LABEL_0", "LABEL_1", "LABEL_2"])
    write_moods(tmp_path, MOODS)
    model, notes = loaded(tiny_recipe(tmp_path))
    assert torch.equal(model.classifier.weight, weight)
    assert any("does not name its 3 labels; they are taken as negative, neutral, positive" in note for note in notes)


def test_a_new_head_may_be_asked_for(tmp_path: Path) -> None:
    weight = write_head(tmp_path, "BertForSequenceClassification", MOODS)
    write_moods(tmp_path, MOODS)
    model, notes = loaded(tiny_recipe(tmp_path, "model.head=new"))
    assert not torch.equal(model.classifier.weight, weight)
    assert any(note.startswith("model.head: new: the pretrained head (3 labels") for note in notes)


def test_a_head_that_cannot_be_kept_is_refused_with_both_lists_of_labels(tmp_path: Path) -> None:
    write_head(tmp_path, "BertForSequenceClassification", ["joy", "anger", "fear"])
    write_moods(tmp_path, MOODS[:2])
    with pytest.raises(DataError) as raised:
        prepare(tiny_recipe(tmp_path, "model.head=keep"))
    (line,) = str(raised.value).splitlines()
    assert line.startswith("model.head: keep, but the head of ")
    assert "has 3 labels (joy, anger, fear), and the task has 2 labels (negative, positive)" in line


def test_a_head_is_not_kept_where_there_is_none(tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder")
    write_moods(tmp_path, MOODS)
    with pytest.raises(DataError, match=r"model\.head: keep, but .* \(BertModel\) has no head for this task"):
        prepare(tiny_recipe(tmp_path, "model.head=keep"))


def test_prepared_data_are_refused_as_well(tmp_path: Path) -> None:
    write_head(tmp_path, "BertForSequenceClassification", ["joy", "anger"])
    write_moods(tmp_path, MOODS[:2])
    prepare(tiny_recipe(tmp_path))
    with pytest.raises(DataError, match=r"model\.head: keep"):
        check(tiny_recipe(tmp_path, "model.head=keep"), world_size=1, num_previews=0)
    report = check(tiny_recipe(tmp_path), world_size=1, num_previews=0)
    assert any(note.startswith("model.head: the pretrained head has 2 labels (joy, anger)") for note in report.notes)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("model={path: x, head: keep, from_scratch: true}", "head: keep needs pretrained weights"),
        ("model={path: x, head: old}", r"model\.head"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny_recipe(tmp_path, override)


def test_only_a_task_with_labels_has_a_head(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.head: a model for chat has no head for labels"):
        tiny_recipe(tmp_path, "task={kind: chat}", "model.head=new")


def test_a_model_whose_config_names_no_architecture_may_have_a_head(tmp_path: Path) -> None:
    write_head(tmp_path, "BertForSequenceClassification", ["joy", "anger"])
    path = tmp_path / "encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": None}))
    write_moods(tmp_path, MOODS)
    recipe = tiny_recipe(tmp_path)
    model, _ = loaded(recipe)
    assert model.classifier.out_features == 3
    task = task_of(recipe, prepare(recipe).facts, load_tokenizer(recipe), load_model_config(recipe))
    assert choose_head(recipe, task, load_model_config(recipe)).is_replaced


def drawn(ranks: Ranks, recipes: list[Recipe]) -> list[list[Any]]:
    """The weights of the new head of each recipe's model, once its engine has been built."""
    heads = []
    for recipe in recipes:
        tokenizer = load_tokenizer(recipe)
        task = task_of(recipe, prepare(recipe).facts, tokenizer, load_model_config(recipe))
        ds_config = resolve_ds_config(load_ds_config(recipe.engine.deepspeed), recipe, hidden_size=32)
        with sharded_birth(ds_config):
            model = load_model(recipe, task, tokenizer)

        def make_optimizer(model: Any, config: Any = recipe.optim) -> Any:
            return OPTIMIZERS["adamw"](model, config)

        DeepSpeedEngine(model, ds_config, make_optimizer, ranks=ranks, seed=0)
        parameters = [*model.classifier.parameters()]
        sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
        with deepspeed.zero.GatheredParameters(sharded, enabled=bool(sharded)):
            heads.append([parameter.tolist() for parameter in parameters])
    return heads


def test_a_new_head_is_the_same_sharded_or_not(tmp_path: Path) -> None:
    write_head(tmp_path, "BertForSequenceClassification", ["joy", "anger"])
    write_moods(tmp_path, MOODS)
    recipes = [tiny_recipe(tmp_path, f"engine.deepspeed=zero{stage}") for stage in (2, 3)]
    prepare(recipes[0])
    for whole, sharded in run_ranks(drawn, recipes):
        assert whole == sharded
        assert np.array(whole[0]).shape == (3, 32)
