"""Where a model cannot be compared with the pretrained one, the recipe is refused, with what to do instead."""

import pytest

from shardtune.errors import ConfigError
from shardtune.recipe.load import parse_recipe

RECIPE = """
task: {kind: language_modeling}
model: {path: ./model}
data: {train: train.jsonl, dev: dev.jsonl}
"""


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        (
            "task.kind=classification",
            "the pretrained model has no distribution over the answers of classification to compare with; remove",
        ),
        ("model.from_scratch=true", "model.from_scratch has no pretrained model to compare with; remove one of them"),
    ],
)
def test_without_a_pretrained_distribution_it_is_refused(override: str, fault: str) -> None:
    for key in ("retention.kl_to_base", "regularize.kl_to_base"):
        with pytest.raises(ConfigError) as refusal:
            parse_recipe(RECIPE, [override, f"{key}={'true' if 'retention' in key else '0.1'}"])
        assert f"{key}: {fault}" in str(refusal.value) and "\n" not in str(refusal.value)


def test_there_have_to_be_rows_to_measure_it_on() -> None:
    with pytest.raises(ConfigError, match=r"retention.kl_to_base: no data.dev to measure it on"):
        parse_recipe(RECIPE, ["data.dev=null", "retention.kl_to_base=true"])
    assert parse_recipe(RECIPE, ["data.dev=null", "regularize.kl_to_base=0.1"]).compares_with_base


@pytest.mark.parametrize("weight", ["-0.1", ".inf", "true"])
def test_a_weight_is_a_finite_number_from_0(weight: str) -> None:
    with pytest.raises(ConfigError, match=r"regularize.kl_to_base.*: (must be|expected a number)"):
        parse_recipe(RECIPE, [f"regularize.kl_to_base={weight}"])


def test_0_compares_nothing_and_is_the_default() -> None:
    assert parse_recipe(RECIPE, ["regularize.kl_to_base=0"]) == parse_recipe(RECIPE)
    assert not parse_recipe(RECIPE).compares_with_base
