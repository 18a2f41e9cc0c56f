"""What changes what is learned is told with what it brings, and is never among the settings."""

import pytest

from shardtune.planner.advice.advice import Advice, advise
from shardtune.planner.advice.changes import changes
from shardtune.planner.advice.settings import strategies_for
from shardtune.planner.hardware import known_gpus
from shardtune.planner.memory import held_states
from shardtune.recipe.load import learning_hash, parse_recipe
from tests.shardtune.planner.advice.test_search import RECIPE, _cluster, _question


def _advice(gpu: str, billions: float, layers: int) -> Advice:
    return advise(_question(billions=billions, layers=layers), _cluster(gpu, gpus_per_node=1), known_gpus())


def test_each_change_is_told_with_the_override_that_makes_it() -> None:
    question, cluster = _question(), _cluster()
    found = {change.name: change for change in changes(question, cluster)}
    assert list(found) == ["LoRA", "QLoRA", "bf16 states"]
    for change in found.values():
        best = change.searched.best
        assert best is not None
        recipe = parse_recipe(RECIPE, [*change.overrides.split(), *best.setting.overrides.split()])
        assert learning_hash(recipe) != learning_hash(question.recipe)
        lora = recipe.model.lora
        assert (lora.quantize_base if lora else None, recipe.optim.states) == {
            "LoRA": ("none", "fp32"),
            "QLoRA": ("nf4", "fp32"),
            "bf16 states": (None, "bf16"),
        }[change.name]
        assert recipe.optim.states != "bf16" or best.forecast.planned.average.states.moments == 4


@pytest.mark.parametrize(
    ("overrides", "left"),
    [
        (("model.lora={}",), ["QLoRA"]),
        (("model.lora.quantize_base=int8",), []),
        (("model.from_scratch=true",), ["bf16 states"]),
        (("optim.states=bf16",), ["LoRA", "QLoRA"]),
    ],
)
def test_what_a_recipe_has_already_is_no_change(overrides: tuple[str, ...], left: list[str]) -> None:
    assert [change.name for change in changes(_question(*overrides), _cluster())] == left


def test_a_model_of_70_b_parameters_fits_one_gpu_of_80_gb_by_qlora_alone() -> None:
    advice = _advice("h100", 70, 80)
    assert advice.best is None
    lora, qlora, states = advice.changes
    assert lora.searched.best is None and states.searched.best is None
    assert qlora.searched.best is not None and qlora.searched.best.forecast.verdict == "fits"
    job = qlora.searched.best.forecast.planned.average
    layers = sum(stack.num * stack.matrices for stack in job.shape.stacks)
    others = job.shape.num_parameters - layers + job.num_trained
    assert held_states(job)["weights"] == pytest.approx(4.127 / 8 * layers + 2 * others, rel=1e-3)
    lines = advice.describe()
    assert "QLoRA          model.lora.quantize_base=nf4 would train " in lines and "is yours to decide" in lines
    assert "optim.states=bf16 would not fit either" in lines


def test_a_quantized_base_is_never_divided() -> None:
    recipe = _question("model.lora.quantize_base=nf4").recipe
    assert not [name for name in strategies_for(recipe, _cluster(nodes=2)) if name and name.startswith("zero3")]
    assert [name for name in strategies_for(_question().recipe, _cluster(nodes=2)) if name and name.startswith("zero3")]
