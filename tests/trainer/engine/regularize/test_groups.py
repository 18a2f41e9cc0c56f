"""Layers have their own learning rates, and everything else of a run is as without them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from shardtune.errors import ConfigError
from shardtune.recipe.sections.optim import OptimConfig
from shardtune.trainer.engine.regularize.groups import parameter_groups, set_lr
from shardtune.trainer.model.parts.layers import remember_new
from tests.support.runs import curve, tiny_recipe, train
from tests.support.stops import stop_after

BERT = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}


def bert() -> Any:
    with torch.device("meta"):
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT))
    remember_new(model, {"bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"})
    return model


def by_name(model: Any, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {names[parameter]: group for group in groups for parameter in group["params"]}


def test_each_layer_learns_at_a_part_of_the_rate_of_the_one_above() -> None:
    model = bert()
    groups = parameter_groups(model, OptimConfig(layer_decay=0.5))
    set_lr(groups, 8.0)
    rates = {name: group["lr"] for name, group in by_name(model, groups).items()}
    assert rates.keys() == {name for name, _ in model.named_parameters()}
    assert rates["classifier.weight"] == rates["bert.pooler.dense.bias"] == 8
    query = "bert.encoder.layer.{}.attention.self.query.weight"
    assert [rates[query.format(layer)] for layer in (2, 1, 0)] == [4, 2, 1]
    assert rates["bert.embeddings.word_embeddings.weight"] == rates["bert.embeddings.LayerNorm.bias"] == 0.5


def test_pretrained_weights_are_pulled_and_new_ones_decayed() -> None:
    model = bert()
    groups = by_name(model, parameter_groups(model, OptimConfig(weight_decay=0.1), l2_sp=0.3))
    for name, group in groups.items():
        is_new, is_kept = name.startswith(("classifier", "bert.pooler")), name.endswith("bias") or "LayerNorm" in name
        assert group["l2_sp"] == (0 if is_new else 0.3), name
        assert group["weight_decay"] == (0.1 if is_new and not is_kept else 0), name


def test_a_model_without_a_list_of_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optim\.layer_decay: Linear has no list of layers; remove the key"):
        parameter_groups(torch.nn.Linear(2, 2), OptimConfig(layer_decay=0.5))


EVERYTHING = (
    "optim.layer_decay=0.5",
    "regularize.l2_sp=20.0",
    "model.freeze=[embeddings, 'layers:0']",
    "train={global_batch_size: 12, max_steps: 6, eval_every_steps: 2}",
)


@pytest.fixture(scope="module")
def reference(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    recipe = tiny_recipe(tiny, "engine.deepspeed=zero0", *EVERYTHING)
    return train(recipe, tmp_path_factory.mktemp("reference"), world_size=1)[1]


def assert_same(events: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    found, expected = ([event for event in each if event["event"] == "step"] for each in (events, reference))
    assert len(found) == len(expected) == 6
    for one, other in zip(found, expected, strict=True):
        for key in ("loss", "grad_norm", "lr", "penalty"):
            assert one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-9), (one["step"], key)


def test_the_rates_the_penalty_and_what_is_frozen_change_the_curve(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]]
) -> None:
    for number, left_out in enumerate(EVERYTHING[:3]):
        kept = [override for override in EVERYTHING if override != left_out]
        events = train(tiny_recipe(tiny, "engine.deepspeed=null", *kept), tmp_path / str(number), world_size=1)[1]
        assert curve(events)[-1] != pytest.approx(curve(reference)[-1], rel=1e-3), left_out


@pytest.mark.parametrize(
    ("world_size", "strategy"),
    [(2, "zero1"), (4, "zero2"), (2, "zero2_offload"), (2, "zero3"), (3, "null")],
)
def test_ranks_and_zero_stages_change_nothing(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]], world_size: int, strategy: str
) -> None:
    recipe = tiny_recipe(tiny, f"engine.deepspeed={strategy}", "train.micro_batch_tokens=64", *EVERYTHING)
    assert_same(train(recipe, tmp_path, world_size=world_size)[1], reference)


@pytest.mark.parametrize(("first", "then"), [((2, "zero3"), (1, "null")), ((1, "null"), (3, "zero2"))])
def test_a_run_resumes_on_other_ranks_and_stages(
    tiny: Path, tmp_path: Path, reference: list[dict[str, Any]], first: tuple[int, str], then: tuple[int, str]
) -> None:
    broken, resumed = (tiny_recipe(tiny, f"engine.deepspeed={strategy}", *EVERYTHING) for _, strategy in (first, then))
    ended = train(broken, tmp_path, world_size=first[0], before=stop_after(3))[0]
    assert not any(ended)
    ended, events = train(resumed, tmp_path, world_size=then[0])
    assert all(ended)
    assert_same(events, reference)
