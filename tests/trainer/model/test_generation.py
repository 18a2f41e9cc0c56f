"""What a model generates is decided by the recipe, and not by its own generation_config.json, which it keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.recipe.load import parse_recipe
from shardtune.trainer.evaluation.generate import settings_of
from shardtune.trainer.model.generation import decoding_of_recipe, describe_unused, unset_invalid
from shardtune.trainer.model.load import generate, keep_model_files, load_model
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import task_of
from tests.support.tiny import PLAIN, write_causal, write_encoder_decoder

OF_BART = {"min_length": 12, "no_repeat_ngram_size": 3, "repetition_penalty": 5.0, "max_length": 4, "num_beams": 3}
OF_BART |= {"suppress_tokens": [3], "length_penalty": 2.0, "early_stopping": True, "forced_bos_token_id": 4}


def write_chat(folder: Path, **generation: Any) -> Path:
    write_causal(folder, PLAIN)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
    return folder


def write_translator(folder: Path, **generation: Any) -> Path:
    write_encoder_decoder(folder, PLAIN)
    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.AutoConfig.from_pretrained(folder))
    model.generation_config.update(**generation)
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path, kind: str) -> tuple[Any, Any, Any, list[str]]:
    """The task, model and tokenizer of a recipe, and what was said when it was loaded."""
    recipe = parse_recipe(
        f"task: {{kind: {kind}, max_new_tokens: 8}}\nmodel: {{path: {folder}}}\ndata: {{train: x}}\n"
        "engine: {precision: fp32}"
    )
    notes: list[str] = []
    tokenizer = load_tokenizer(recipe)
    task = task_of(recipe, {"bleu_tokenizer": "13a"}, tokenizer, load_model_config(recipe))
    return task, load_model(recipe, task, tokenizer, say=notes.append), tokenizer, notes


def answers(folder: Path) -> list[list[int]]:
    task, model, tokenizer, _ = loaded(folder, "translation")
    inputs = dict(tokenizer(["the film was", "a plot and it"], return_tensors="pt", padding=True))
    inputs.pop("token_type_ids", None)
    ids: list[list[int]] = generate(model.eval(), inputs, settings_of(task.generation, tokenizer)).tolist()
    return ids


def test_a_model_s_own_settings_do_not_change_what_is_measured(tmp_path: Path) -> None:
    plain, strict = write_translator(tmp_path / "plain"), write_translator(tmp_path / "strict", **OF_BART)
    assert transformers.GenerationConfig.from_pretrained(strict).min_length == 12
    assert answers(strict) == answers(plain)


def test_settings_in_an_old_config_do_not_either(tmp_path: Path) -> None:
    plain, old = write_translator(tmp_path / "plain"), write_translator(tmp_path / "old")
    (old / "generation_config.json").unlink()
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps({**config, "min_length": 12, "no_repeat_ngram_size": 3}))
    assert answers(old) == answers(plain)


def test_what_is_not_used_is_said_and_exported(tmp_path: Path) -> None:
    _, model, tokenizer, notes = loaded(write_translator(tmp_path / "strict", **OF_BART), "translation")
    (note,) = notes
    assert note.startswith("generation_config.json of the model: early_stopping=True, forced_bos_token_id=4, ")
    assert "min_length=12" in note and note.endswith("the exported model keeps them")
    keep_model_files(model, tokenizer, tmp_path / "files")
    kept = json.loads((tmp_path / "files" / "generation_config.json").read_text())
    assert kept.items() >= OF_BART.items()


@pytest.mark.parametrize("kind", ["chat", "language_modeling"])
def test_settings_that_contradict_each_other_are_unset_and_said(tmp_path: Path, kind: str) -> None:
    folder = write_chat(tmp_path / "chat", temperature=0.9, top_p=0.6)
    _, model, tokenizer, notes = loaded_causal(folder, kind)
    assert notes == [
        "generation_config.json of the model: temperature=0.9, top_p=0.6 contradict its other settings; not exported"
    ]
    keep_model_files(model, tokenizer, tmp_path / "files")
    kept = transformers.GenerationConfig.from_pretrained(tmp_path / "files")
    kept.validate(strict=True)
    assert (kept.temperature, kept.top_p) == (None, None)


def loaded_causal(folder: Path, kind: str) -> tuple[Any, Any, Any, list[str]]:
    if kind == "chat":
        return loaded(folder, kind)
    recipe = parse_recipe(
        f"task: {{kind: {kind}}}\nmodel: {{path: {folder}}}\ndata: {{train: x}}\nengine: {{precision: fp32}}"
    )
    notes: list[str] = []
    tokenizer = load_tokenizer(recipe)
    task = task_of(recipe, {}, tokenizer, load_model_config(recipe))
    return task, load_model(recipe, task, tokenizer, say=notes.append), tokenizer, notes


def test_sampling_settings_of_a_chat_model_are_exported_but_not_used(tmp_path: Path) -> None:
    folder = write_chat(tmp_path / "chat", do_sample=True, temperature=0.6, top_p=0.9, repetition_penalty=1.1)
    task, model, tokenizer, notes = loaded(folder, "chat")
    (note,) = notes
    assert "do_sample=True, repetition_penalty=1.1, temperature=0.6, top_p=0.9 are not used in evaluations" in note
    keep_model_files(model, tokenizer, tmp_path / "files")
    kept = transformers.GenerationConfig.from_pretrained(tmp_path / "files")
    assert (kept.do_sample, kept.temperature, kept.repetition_penalty) == (True, 0.6, 1.1)
    inputs = tokenizer(["the film"], return_tensors="pt", return_token_type_ids=False)
    settings = settings_of(task.generation, tokenizer)
    once, again = (generate(model.eval(), inputs, settings).tolist() for _ in range(2))
    assert once == again


def test_a_model_has_its_own_settings_again_also_after_an_error(tmp_path: Path) -> None:
    _, model, _, _ = loaded(write_chat(tmp_path / "chat", repetition_penalty=1.1), "chat")
    with pytest.raises(KeyError), decoding_of_recipe(model):
        assert model.generation_config.repetition_penalty is None
        assert model.generation_config.eos_token_id == [5]
        raise KeyError
    assert model.generation_config.repetition_penalty == 1.1


def test_a_translator_may_not_write_its_padding() -> None:
    """As Marian's, whose logit of the padding means nothing."""
    config = transformers.GenerationConfig(pad_token_id=7, bad_words_ids=[[7]], eos_token_id=1)
    assert describe_unused(config, {}) == ""
    model = transformers.PreTrainedModel.__new__(transformers.PreTrainedModel)
    object.__setattr__(model, "generation_config", config)
    with decoding_of_recipe(model):
        assert model.generation_config.bad_words_ids == [[7]]
    config.bad_words_ids = [[3, 4]]
    assert "bad_words_ids=[[3, 4]] are not used" in describe_unused(config, {})
    with decoding_of_recipe(model):
        assert model.generation_config.bad_words_ids is None


def test_a_valid_config_stays_as_it_is() -> None:
    config = transformers.GenerationConfig(do_sample=True, temperature=0.7)
    assert unset_invalid(config) == ""
    assert config.temperature == 0.7
