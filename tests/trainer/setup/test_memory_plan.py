"""The memory that is estimated for a rank is the planner's, of the very model that will be loaded."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from shardtune.planner.memory import held_states
from shardtune.recipe.schema import Recipe
from shardtune.recipe.sections.engine import EngineConfig
from shardtune.recipe.sections.job import JobConfig
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.memory_plan import ModelSize, grouped, memory_of, model_size, rank_job
from shardtune.trainer.tasks import TASKS
from tests.support.runs import tiny_recipe


@pytest.fixture(scope="module")
def recipe(tiny: Path) -> Recipe:
    return tiny_recipe(tiny)


@pytest.fixture(scope="module")
def task(recipe: Recipe) -> Any:
    return TASKS["classification"](
        recipe.task, prepare(recipe).facts, load_tokenizer(recipe), load_model_config(recipe)
    )


@pytest.fixture(scope="module")
def size(recipe: Recipe, task: Any) -> ModelSize:
    return model_size(recipe, task, load_model_config(recipe, task))


def engine(recipe: Recipe, strategy: str | None, precision: str, num_nodes: int = 1) -> Recipe:
    chosen = EngineConfig(deepspeed=strategy, precision=precision)  # type: ignore[arg-type]
    return recipe.model_copy(update={"engine": chosen, "job": JobConfig(nodes=num_nodes)})


@pytest.mark.parametrize(
    ("strategy", "precision", "world_size", "num_bytes"),
    [
        ("zero0", "bf16", 2, 2 + 4 + 12),
        ("zero0", "fp32", 2, 4 + 4 + 8),
        ("zero2", "bf16", 2, 2 + (4 + 12) / 2),  # gradients of 4 bytes, not 2: they are added up in fp32
        ("zero3", "bf16", 2, (2 + 4 + 12) / 2),
        (None, "bf16", 1, 2 + 4 + 12),
        (None, "fp32", 1, 4 + 4 + 8),
        (None, "bf16", 2, 4 + (2 + 12) / 2),  # CPU ranks have the weights in common, and each a part of the states
        (None, "fp32", 2, 4 + (4 + 8) / 2),
    ],
)
def test_a_parameter_takes_as_many_bytes_as_its_engine_holds_of_it(
    recipe: Recipe, size: ModelSize, strategy: str | None, precision: str, world_size: int, num_bytes: float
) -> None:
    held = held_states(rank_job(engine(recipe, strategy, precision), size, world_size=world_size))
    held.pop("buckets")
    held.pop("whole vectors")  # norms and biases, of which stage 3 keeps more than a part
    assert sum(held.values()) == pytest.approx(num_bytes * size.num_parameters)


@pytest.mark.parametrize(
    ("strategy", "num_nodes", "parts"), [("zero3", 2, [16]), ("zero3_hpz", 2, [16, 8]), ("zero3_hpz", 1, [16])]
)
def test_a_second_copy_of_the_weights_on_each_machine_takes_memory(
    recipe: Recipe, size: ModelSize, strategy: str, num_nodes: int, parts: list[int]
) -> None:
    held = held_states(rank_job(engine(recipe, strategy, "bf16", num_nodes), size, world_size=16))
    second = held["second copy of weights"]
    assert held["weights"] + second == pytest.approx(sum(2 * size.num_parameters / part for part in parts))


def test_an_architecture_that_the_planner_does_not_know_is_counted_in_the_model_itself(
    recipe: Recipe, task: Any
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ElectraConfig(vocab_size=100, embedding_size=16, **sizes)
    model = transformers.ElectraForSequenceClassification(config)
    size = model_size(recipe, task, config)
    assert size.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    job = rank_job(recipe, size, world_size=1)
    small, large = (memory_of(job, size, (rows, 24)).terms.get("activations", 0.0) for rows in (1, 64))
    assert large > 32 * small > 0


def test_adapters_have_states_and_the_base_has_none(recipe: Recipe, task: Any, size: ModelSize) -> None:
    with_lora = Recipe.model_validate({**recipe.model_dump(), "model": {**recipe.model.model_dump(), "lora": {"r": 4}}})
    adapted = model_size(with_lora, task, load_model_config(with_lora, task))
    assert 0 < adapted.num_added < adapted.num_trained < size.num_parameters
    assert adapted.num_parameters == size.num_parameters + adapted.num_added
    held = held_states(rank_job(engine(with_lora, None, "bf16"), adapted, world_size=1))
    assert held["optimizer states"] == 8 * adapted.num_trained


def test_what_is_shown_adds_up_to_what_is_used(recipe: Recipe, size: ModelSize) -> None:
    memory = memory_of(rank_job(recipe, size, world_size=2), size, (8, 24))
    shown = grouped(memory)
    assert sum(shown.values()) == pytest.approx(memory.used)
    assert {"weights", "gradients", "process"} <= shown.keys()


def test_what_is_offloaded_stays_in_the_memory_of_a_cpu_rank(recipe: Recipe, size: ModelSize) -> None:
    offloaded, held = (
        grouped(memory_of(rank_job(engine(recipe, strategy, "fp32"), size, world_size=2), size, (1, 24)))
        for strategy in ("zero2_offload", "zero2")
    )
    assert offloaded["optimizer"] >= 12 / 2 * size.num_parameters
    assert held["optimizer"] >= 12 / 2 * size.num_parameters
