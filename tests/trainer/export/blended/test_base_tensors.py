"""What a base has of each tensor of a tuned model, whatever it calls it and however it stores it."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from shardtune.errors import CheckpointError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.export.blended.base_tensors import BaseModel, open_base_model
from shardtune.trainer.tasks import task_of
from tests.support.runs import tiny_recipe
from tests.support.tiny import GOOD, write_causal, write_encoder

FACTS = {"has_pairs": False, "label_names": ["negative", "positive"]}


def opened(recipe: Recipe, tuned: Path, said: list[str]) -> BaseModel:
    """The base of the recipe for a model in the folder `tuned`."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    config = transformers.AutoConfig.from_pretrained(tuned)
    task = task_of(recipe, FACTS, tokenizer, config)
    return open_base_model(recipe, task, tokenizer, config, load_file(tuned / "model.safetensors"), said.append)


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """A classifier on the tiny encoder, which is its base."""
    write_encoder(tmp_path / "encoder")
    kind = transformers.BertForSequenceClassification
    kind.from_pretrained(tmp_path / "encoder", num_labels=2).save_pretrained(tmp_path / "tuned")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "encoder").save_pretrained(tmp_path / "tuned")
    return tmp_path / "tuned"


@pytest.mark.parametrize("stored", ["as it is", "with the first names", "in torch's format"])
def test_every_weight_is_found_but_those_of_a_new_head(tuned: Path, stored: str) -> None:
    folder, said = tuned.parent / "encoder", list[str]()
    weights = load_file(folder / "model.safetensors")
    if stored == "with the first names":
        first = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        renamed = {}
        for name, tensor in weights.items():
            for now, before in first.items():
                name = name.replace(now, before)
            renamed[name] = tensor
        save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    if stored == "in torch's format":
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin")
    base = opened(tiny_recipe(tuned.parent), tuned, said)
    assert base.new == {"classifier.weight", "classifier.bias"}
    assert base.embeddings == {"bert.embeddings.word_embeddings.weight"} and base.new_tokens == ()
    names = load_file(tuned / "model.safetensors").keys() - base.new
    assert len(names) == len(weights)
    assert all(torch.equal(base.read(name), weights[name.removeprefix("bert.")]) for name in names)
    assert bool(said) == (stored == "in torch's format")


def test_a_head_of_other_labels_is_new_even_if_it_has_the_same_shape(tuned: Path) -> None:
    kind = transformers.BertForSequenceClassification
    model = kind.from_pretrained(
        tuned.parent / "encoder", id2label={0: "spam", 1: "ham"}, label2id={"spam": 0, "ham": 1}
    )
    model.save_pretrained(tuned.parent / "encoder")
    base = opened(tiny_recipe(tuned.parent), tuned, [])
    assert base.new == {"classifier.weight", "classifier.bias"}


def test_another_tokenizer_is_refused_and_added_tokens_are_known(tmp_path: Path) -> None:
    base, tuned = write_causal(tmp_path / "base", GOOD), write_causal(tmp_path / "tuned", GOOD)
    recipe = tiny_recipe(tmp_path, "task={kind: language_modeling}", f"model.path={base}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    tokenizer.add_tokens(["<|new|>"], special_tokens=True)
    tokenizer.save_pretrained(tuned)
    model = transformers.LlamaForCausalLM.from_pretrained(tuned)
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tuned)
    found = opened(recipe, tuned, [])
    assert (found.new, found.new_tokens, found.num_tokens) == (set(), (len(tokenizer) - 1,), len(tokenizer) - 1)
    assert found.read("model.embed_tokens.weight").shape[0] == len(tokenizer) - 1
    path = base / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["good"], vocabulary["fine"] = vocabulary["fine"], vocabulary["good"]
    path.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"'(good|fine)' is token \d+ in it, and \d+ in the tuned model's"):
        opened(recipe, tuned, [])
