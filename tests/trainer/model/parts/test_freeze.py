"""model.freeze names weights by what they are, or by their names; what is wrong with a pattern is one line."""

from pathlib import Path
from typing import Any

import pytest
import torch

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.check import check
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.model.flops import count_flops
from shardtune.trainer.model.load import load_model
from shardtune.trainer.model.parts.freeze import freeze
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.tasks import task_of
from tests.support.runs import tiny_recipe
from tests.trainer.model.parts.test_layers import PAIR, SIZES, made


def trained(model: Any) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("patterns", "frozen"),
    [
        (["embeddings"], "bert.embeddings."),
        (["layers:1"], "bert.encoder.layer.1."),
        (["encoder.layer.1."], "bert.encoder.layer.1."),
        (["layer.[1]"], "bert.encoder.layer.1."),
        (["bert"], "bert."),
    ],
)
def test_a_pattern_freezes_what_it_names(patterns: list[str], frozen: str) -> None:
    model = made("bert", "TokenClassification", **SIZES)
    assert freeze(model, patterns) == []
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == {name for name in names if not name.startswith(frozen)}


def test_globs_match_within_a_part_of_a_name() -> None:
    model = made("bert", "TokenClassification", **SIZES)
    freeze(model, ["layer.*.attention", "*Norm.bias"])
    left = trained(model)
    assert not [name for name in left if ".attention." in name or name.endswith("Norm.bias")]
    assert "bert.encoder.layer.0.output.LayerNorm.weight" in left and "bert.encoder.layer.0.output.dense.bias" in left


def test_layers_are_those_of_both_stacks() -> None:
    model = made("bart", "Seq2SeqLM", **PAIR)
    freeze(model, ["layers:0-1"])
    assert not [name for name in trained(model) if name.startswith("model.decoder.layers.")]
    assert [name for name in trained(model) if name.startswith("model.encoder.layers.")]


@pytest.mark.parametrize(
    ("patterns", "fault"),
    [
        (
            ["bert.encodr.layer"],
            "'bert.encodr.layer' matches no module and no weight; did you mean 'bert.encoder.layer'",
        ),
        (
            ["foo"],
            "'foo' matches no module and no weight; the model consists of bert.embeddings, bert.encoder, classifier",
        ),
        (["layers:0-3"], "'layers:0-3': the model has layers 0 to 2"),
        (["bert", "classifier"], "nothing is left to train of bert.embeddings, bert.encoder, classifier"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_one_line(patterns: list[str], fault: str) -> None:
    with pytest.raises(DataError) as raised:
        freeze(made("bert", "TokenClassification", **SIZES), patterns)
    assert str(raised.value).startswith(f"model.freeze: {fault}") and "\n" not in str(raised.value)


def test_a_head_that_shares_the_weight_of_the_embeddings_is_said_to_be_frozen() -> None:
    model = made("llama", "CausalLM", **SIZES, tie_word_embeddings=True)
    assert freeze(model, ["lm_head"]) == [
        "model.freeze: the last layer is frozen too, because its weight is that of the embeddings"
    ]
    assert "model.embed_tokens.weight" not in trained(model)


def load(recipe: Recipe) -> tuple[Any, list[str]]:
    tokenizer, notes = load_tokenizer(recipe), []  # type: list[str]
    task = task_of(recipe, prepare(recipe).facts, tokenizer, load_model_config(recipe))
    return load_model(recipe, task, tokenizer, say=notes.append), notes


def test_what_the_pretrained_model_lacks_is_trained_nevertheless(tiny: Path) -> None:
    model, notes = load(tiny_recipe(tiny, "model.freeze=[bert, classifier]"))
    assert trained(model) == {"classifier.weight", "classifier.bias"}
    assert (
        "model.freeze: trained nevertheless, because the pretrained model lacks them: classifier.bias, "
        "classifier.weight" in notes
    )


def test_no_gradient_is_computed_below_the_lowest_trained_layer(tiny: Path) -> None:
    whole, _ = load(tiny_recipe(tiny))
    part, _ = load(tiny_recipe(tiny, "model.freeze=[embeddings, 'layers:0']"))
    reached: list[str] = []
    for name, module in part.named_modules():
        if name.endswith("attention.output"):
            module.register_full_backward_hook(lambda *_, name=name: reached.append(name))
    part(input_ids=torch.tensor([[2, 5, 3]])).logits.sum().backward()
    assert reached == ["bert.encoder.layer.1.attention.output"]
    assert all((parameter.grad is None) is not parameter.requires_grad for parameter in part.parameters())
    counted, of_all = (count_flops(model).per_weight["source"] for model in (part, whole))
    # Of two layers, one is passed forwards only; the lowest trained weights pass nothing on to what is below them.
    assert of_all / 3 < counted < of_all * 2 / 3


def test_check_counts_what_is_trained_and_finds_wrong_patterns(tiny: Path) -> None:
    memory = check(tiny_recipe(tiny, "model.freeze=[embeddings, 'layers:0']"), world_size=1, num_previews=0).memory
    model, _ = load(tiny_recipe(tiny, "model.freeze=[embeddings, 'layers:0']"))
    assert memory.num_trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    with pytest.raises(DataError, match=r"model\.freeze: 'layers:2': the model has layers 0 to 1"):
        check(tiny_recipe(tiny, "model.freeze=['layers:2']"), world_size=1, num_previews=0)
