"""What is compiled learns the same on each engine, in a few variants whatever the shapes of its micro-batches."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from shardtune.ds_config.resolve import ds_config_of
from shardtune.recipe.model.lora import LoraConfig
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import DeepSpeedEngine
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.engine.replicated_engine import ReplicatedEngine
from shardtune.trainer.model.lora import Adapters, adapt
from shardtune.trainer.setup.compiler import compile as compiling
from shardtune.trainer.setup.compiler.compilations import Compilations
from shardtune.trainer.setup.compiler.compile import compile_parts, parts_to_compile
from shardtune.trainer.tasks.batch import Batch
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

SHAPES = [(2, 5), (1, 9), (3, 16), (5, 7), (1, 6)]
"""(rows, longest) of a step's micro-batches."""


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        pad_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config)


def recomputing() -> Any:
    model = llama()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def with_adapters() -> Any:
    model = llama()
    layers = [name for name, module in model.named_modules() if name.endswith("proj")]
    adapt(model, LoraConfig(r=4), Adapters(tuple(layers), ()), seed=0)
    return model


def sgd(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)


def engine_of(recipe: Recipe, model: Any, ranks: Ranks) -> Engine:
    """As trainer/setup/load_engine.py puts it together, compiled if the recipe says so."""
    parts = parts_to_compile(recipe, model)
    ds_config = ds_config_of(recipe, hidden_size=32)
    engine: Engine
    if ds_config is None:
        has_sparse = recipe.engine.compile != "full"
        engine = ReplicatedEngine(
            model, sgd, precision="fp32", max_grad_norm=1.0, ranks=ranks, seed=0, has_sparse_gradients=has_sparse
        )
    else:
        if recipe.engine.deepspeed == "zero3":  # or all of so small a model would stay gathered
            ds_config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
        engine = DeepSpeedEngine(model, ds_config, sgd, ranks=ranks, seed=0, undivided=parts)
    compile_parts(model, parts)
    return engine


def batch(rows: int, longest: int) -> Batch:
    ids = torch.arange(rows * longest).view(rows, longest) * 7 % 50
    return Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids)


def loss_sum(output: Any, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten(), reduction="sum")


def learn(
    ranks: Ranks,
    recipe: Recipe,
    make: Callable[[], Any] = llama,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    backend: str = "aot_eager",
) -> Any:
    """Two steps: their losses and norms; whether the weights keep their names; how often was compiled; an answer."""
    compiling.BACKEND = backend
    compilations = Compilations()
    model = make()
    names = [*model.state_dict()]
    engine = engine_of(recipe, model, ranks)
    curve = []
    for number in range(2):
        engine.begin_step(number, num_micro_batches=len(shapes))
        losses = []
        for shape in shapes:
            inputs = batch(*shape)
            loss = loss_sum(engine.forward(inputs), inputs.labels)
            engine.backward(loss, num_targets=100)
            losses.append(float(loss.detach()))
        curve.append((sum(losses), engine.step(lr=0.1).grad_norm))
    seen = compilations.number
    with engine.evaluating():
        answer = engine.generate({"input_ids": torch.tensor([[3, 4, 5]])}, {"max_new_tokens": 4, "do_sample": False})
    assert compilations.number == seen, "generating has compiled"
    return curve, [*model.state_dict()] == names, seen, answer.tolist()


def both(folder: Path, strategy: str, how: str, *arguments: Any) -> tuple[Any, Any]:
    """What is learned without compiling, and with it."""
    recipes = [tiny_recipe(folder, f"engine.deepspeed={strategy}", f"engine.compile={name}") for name in ("off", how)]
    ((off,), (on,)) = (run_ranks(learn, recipe, *arguments, world_size=1, timeout_s=280) for recipe in recipes)
    return off, on


def assert_same(off: Any, on: Any, *, most: int) -> None:
    expected, _, none, expected_answer = off
    curve, has_same_names, number, answer = on
    assert none == 0 < number <= most
    assert has_same_names
    assert answer == expected_answer
    for (loss, norm), (expected_loss, expected_norm) in zip(curve, expected, strict=True):
        assert loss == pytest.approx(expected_loss, rel=1e-5) and norm == pytest.approx(expected_norm, rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "how"),
    [("null", "regional"), ("null", "full"), ("zero2", "regional"), ("zero3", "regional")],
)
def test_a_compiled_model_learns_the_same_in_two_variants(tmp_path: Path, strategy: str, how: str) -> None:
    assert_same(*both(tmp_path, strategy, how), most=2)  # one row, and several


@pytest.mark.parametrize("strategy", ["null", "zero3"])
def test_activations_are_recomputed_in_compiled_layers_too(tmp_path: Path, strategy: str) -> None:
    assert_same(*both(tmp_path, strategy, "regional", recomputing, SHAPES[:1]), most=1)


def test_inductors_code_learns_the_same(tmp_path: Path) -> None:
    assert_same(*both(tmp_path, "null", "regional", llama, [(2, 5), (3, 16)], "inductor"), most=1)


@pytest.mark.parametrize("strategy", ["null", "zero3"])
def test_adapters_learn_the_same_in_compiled_layers(tmp_path: Path, strategy: str) -> None:
    # Without an input that has a gradient, ZeRO-3 would take the first layer's gradients before they are there.
    assert_same(*both(tmp_path, strategy, "regional", with_adapters, SHAPES[:2]), most=4)
