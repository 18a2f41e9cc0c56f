"""What a comparison with the pretrained model takes, as check says it."""

import pytest

from shardtune.planner.forecast.of_recipe import copies_base
from shardtune.recipe.load import parse_recipe
from shardtune.trainer.between_steps.base_answers import describe_costs

MEASURED, TRAINED, LORA = "retention.kl_to_base=true", "regularize.kl_to_base=0.1", "model.lora={r: 4}"
STORED = (
    "retention.kl_to_base: the pretrained model's hidden states at the targets of dev (1.6 MB) and its last layer "
    "(0.2 MB) are written to data.cache_dir, once"
)
COPIED = (
    "regularize.kl_to_base: each rank holds a frozen copy of the pretrained model (4.0 MB), and each micro-batch takes "
    "a forward pass of it"
)
PASSED = "retention.kl_to_base: each batch of dev takes a second pass, of the pretrained model"
WITHOUT = "regularize.kl_to_base: each micro-batch takes a second forward pass, without the adapters"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), []),
        ((MEASURED,), [STORED]),
        ((TRAINED,), [COPIED]),
        ((MEASURED, TRAINED), [PASSED, COPIED]),
        ((MEASURED, TRAINED, LORA), [PASSED, WITHOUT]),
        ((MEASURED, LORA), [PASSED]),
        ((MEASURED, "model.lora={train_whole: [embed_tokens]}"), [STORED]),
        ((TRAINED, "model.lora={train_whole: [embed_tokens]}"), [COPIED]),
    ],
)
def test_what_it_takes_is_said(overrides: tuple[str, ...], said: list[str]) -> None:
    text = "task: {kind: language_modeling}\nmodel: {path: ./m}\ndata: {train: t.jsonl, dev: d.jsonl}"
    recipe = parse_recipe(f"{text}\nengine: {{precision: fp32}}", overrides)
    assert describe_costs(recipe, num_parameters=10**6, layer=(500, 100), num_targets=4000.0) == said
    assert copies_base(recipe) == (COPIED in said)
