"""The divergence from the pretrained model as a term of the loss, and as a metric of dev: whole trainings."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from tests.support.runs import curve, events, train
from tests.support.stops import stop_after
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_documents

RECIPE = """
task: {{kind: language_modeling}}
model: {{path: {folder}/causal}}
data:
  train: {folder}/train.jsonl
  dev: {folder}/dev.jsonl
  max_tokens: 24
  length_window: 0
  cache_dir: {folder}/cache
train: {{global_batch_size: 12, max_steps: 5, eval_every_steps: 3, eval_at_start: true}}
optim: {{lr: 5e-3, warmup_steps: 2}}
engine: {{precision: fp32, deepspeed: null}}
retention: {{kl_to_base: true}}
report: {{wandb: disabled}}
"""
LORA = "model.lora={r: 4, alpha: 32}"
SHARE = "regularize.kl_to_base=0.5"
Numbers = dict[int, float]
Layout = tuple[int, tuple[str, ...]]
ALONE: Layout = (1, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kl")
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN], chat_template=None)
    write_documents(folder / "train.jsonl", 57, seed=1)
    write_documents(folder / "dev.jsonl", 23, seed=2)
    return folder


def recipe_of(folder: Path, *overrides: str) -> Recipe:
    return parse_recipe(RECIPE.format(folder=folder), overrides)


def numbers(run_dir: Path, kind: str, name: str = "kl_to_base") -> Numbers:
    """Step -> a number of its event."""
    return {event["step"]: event[name] for event in events(run_dir, kind)}


def run(folder: Path, layout: Layout, *overrides: str) -> Path:
    """The directory of a run, which has been run if it has not been before."""
    ranks, settings = layout
    run_dir = folder / "runs" / "-".join((str(ranks), *settings, *overrides)).replace("/", "")
    if not run_dir.exists():
        assert all(train(recipe_of(folder, *settings, *overrides), run_dir, world_size=ranks)[0])
    return run_dir


@pytest.mark.parametrize("ways", [(), (LORA,), (SHARE,), (SHARE, LORA), (SHARE, LORA, EMBEDDINGS)])
@pytest.mark.parametrize(
    "layout",
    [
        (2, ("data.packing=off", "train.micro_batch_tokens=48")),
        (3, ("engine.deepspeed=zero1",)),
        (2, ("engine.deepspeed=zero2", "train.micro_batch_tokens=48")),
    ],
)
def test_it_is_the_same_on_any_number_of_ranks_and_micro_batches(
    folder: Path, layout: Layout, ways: tuple[str, ...]
) -> None:
    expected, found = run(folder, ALONE, *ways), run(folder, layout, *ways)
    assert numbers(found, "eval") == pytest.approx(numbers(expected, "eval"), rel=1e-4, abs=1e-6)
    assert [step for step in curve(events(found))] == [pytest.approx(step, rel=1e-4) for step in curve(events(expected))]
    if SHARE in ways:
        assert numbers(found, "step") == pytest.approx(numbers(expected, "step"), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("ways", [(), (SHARE, LORA)])
def test_it_is_the_same_under_zero3(folder: Path, ways: tuple[str, ...]) -> None:
    expected, found = run(folder, ALONE, *ways), run(folder, (2, ("engine.deepspeed=zero3",)), *ways)
    assert numbers(found, "eval") == pytest.approx(numbers(expected, "eval"), rel=1e-4, abs=1e-6)
    assert [step for step in curve(events(found))] == [pytest.approx(step, rel=1e-4) for step in curve(events(expected))]
