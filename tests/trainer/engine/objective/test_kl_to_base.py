"""The divergence from the pretrained model as a term of the loss, and as a metric of dev: whole trainings."""

import shutil
from importlib import import_module
from pathlib import Path

import pytest
import transformers

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from tests.support.runs import curve, events, train
from tests.support.stops import stop_after
from tests.support.tiny import (
    BAD,
    GOOD,
    PLAIN,
    SPOKEN,
    WRITTEN,
    write_causal,
    write_documents,
    write_encoder,
    write_encoder_decoder,
    write_toy_language,
)

import_module("peft")  # once, before the ranks are forked

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
EMBEDDINGS = "model.lora={r: 4, alpha: 32, train_whole: [embed_tokens]}"
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


def assert_alike(found: Path, expected: Path) -> None:
    """That two runs have learned and measured the same, to rounding."""
    steps = [pytest.approx(step, rel=1e-4) for step in curve(events(expected))]
    assert curve(events(found)) == steps
    assert numbers(found, "eval") == pytest.approx(numbers(expected, "eval"), rel=1e-4, abs=1e-6)
    if "kl_to_base" in events(expected, "step")[0]:
        assert numbers(found, "step") == pytest.approx(numbers(expected, "step"), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("ways", [(LORA,), (SHARE, EMBEDDINGS)])
def test_with_adapters_it_is_the_same_on_two_ranks(folder: Path, ways: tuple[str, ...]) -> None:
    layout = (2, ("engine.deepspeed=zero2", "train.micro_batch_tokens=48"))
    assert abs(numbers(run(folder, ALONE, *ways), "eval")[0]) < 1e-6
    assert_alike(run(folder, layout, *ways), run(folder, ALONE, *ways))


@pytest.mark.parametrize("ways", [(), (SHARE,), (SHARE, LORA)])
def test_on_any_number_of_ranks_and_micro_batches_it_is_the_same(folder: Path, ways: tuple[str, ...]) -> None:
    alone = run(folder, ALONE, *ways)
    of_dev = numbers(alone, "eval")
    assert abs(of_dev[0]) < 1e-6 and 0.05 < of_dev[3] < of_dev[5]
    assert_alike(run(folder, (2, ("data.packing=off", "train.micro_batch_tokens=48")), *ways), alone)
    assert_alike(run(folder, (3, ("engine.deepspeed=zero1",)), *ways), alone)
    assert_alike(run(folder, (2, ("engine.deepspeed=zero2", "train.micro_batch_tokens=48")), *ways), alone)


@pytest.mark.parametrize("ways", [(), (SHARE, LORA)])
def test_under_zero3_it_is_the_same(folder: Path, ways: tuple[str, ...]) -> None:
    assert_alike(run(folder, (2, ("engine.deepspeed=zero3",)), *ways), run(folder, ALONE, *ways))


def test_a_large_weight_keeps_the_model_near_the_pretrained_one_and_the_loss_stays_the_tasks(folder: Path) -> None:
    free, held = run(folder, ALONE), run(folder, ALONE, "regularize.kl_to_base=300")
    assert numbers(held, "eval")[5] < 0.2 * numbers(free, "eval")[5]
    first = [numbers(run_dir, "step", "loss")[1] for run_dir in (free, held)]
    assert first[0] == first[1] and "kl_to_base" not in events(free, "step")[0]


def test_a_weight_of_0_is_none(folder: Path) -> None:
    assert curve(events(run(folder, ALONE, "regularize.kl_to_base=0"))) == curve(events(run(folder, ALONE)))


def test_dropout_is_the_trained_models_alone(folder: Path) -> None:
    dropped = run(folder, ALONE, SHARE, "model.dropout=0.5")
    assert numbers(dropped, "step")[1] > 0.01
    assert abs(numbers(dropped, "eval")[0]) < 1e-6


@pytest.mark.parametrize("ways", [(), (SHARE,), (SHARE, LORA)])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, ways: tuple[str, ...]
) -> None:
    recipe = recipe_of(folder, *ways, "model.dropout=0.2", "engine.precision=bf16", f"data.cache_dir={tmp_path}/cache")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(recipe, whole, world_size=2)
    assert train(recipe, broken, world_size=2, before=stop_after(2))[0] == [False, False]
    shutil.rmtree(tmp_path / "cache" / "base_states", ignore_errors=True)  # what the pretrained model said is lost
    assert train(recipe, broken, world_size=2)[0] == [True, True]
    assert curve(events(broken)) == curve(events(whole))
    assert numbers(broken, "eval") == numbers(whole, "eval")
    if ways:
        assert numbers(broken, "step") == numbers(whole, "step")


def test_what_the_pretrained_model_said_is_written_once(folder: Path, tmp_path: Path) -> None:
    cache = f"data.cache_dir={tmp_path}/cache"
    train(recipe_of(folder, cache), tmp_path / "one", world_size=2)
    (stored,) = (tmp_path / "cache" / "base_states").iterdir()
    files = {path: path.stat().st_mtime_ns for path in stored.iterdir()}
    assert len(files) == 5  # the last layer, and of each rank the states and their index
    train(recipe_of(folder, cache, "optim.lr=1e-3"), tmp_path / "two", world_size=1)
    assert {path: path.stat().st_mtime_ns for path in files} == files
    damaged = next(path for path in files if path.suffix == ".states")
    damaged.write_bytes(damaged.read_bytes()[:-4])
    train(recipe_of(folder, cache), tmp_path / "three", world_size=2)
    assert damaged.stat().st_mtime_ns != files[damaged]
    assert_alike(tmp_path / "three", tmp_path / "one")


def test_a_full_copy_under_zero3_is_refused(folder: Path, tmp_path: Path) -> None:
    for ways in ((SHARE,), (SHARE, EMBEDDINGS)):
        with pytest.raises(AssertionError, match=r"regularize.kl_to_base: each rank needs a frozen copy"):
            train(recipe_of(folder, "engine.deepspeed=zero3", *ways), tmp_path / ways[-1][:9], world_size=1)


def test_a_translator_that_changes_its_logits_is_compared_with_itself(tmp_path: Path) -> None:
    model = write_encoder_decoder(tmp_path / "model", [*SPOKEN, *WRITTEN])
    transformers.MarianMTModel(transformers.AutoConfig.from_pretrained(model)).save_pretrained(model)
    write_toy_language(tmp_path, train=40, dev=14)
    settings = ("task={kind: translation, dev_rows: 1, max_new_tokens: 2}", f"model.path={model}", "optim.lr=2e-2")
    alone, two = tmp_path / "alone", tmp_path / "two"
    train(recipe_of(tmp_path, *settings, SHARE), alone, world_size=1)
    train(recipe_of(tmp_path, *settings, SHARE, "train.micro_batch_tokens=48"), two, world_size=2)
    of_dev = numbers(alone, "eval")
    assert abs(of_dev[0]) < 1e-6 and of_dev[5] > 1e-3
    assert_alike(two, alone)


def test_a_masked_language_model_hides_the_same_tokens_in_each_evaluation(tmp_path: Path) -> None:
    model = write_encoder(tmp_path / "model")
    transformers.BertForMaskedLM(transformers.AutoConfig.from_pretrained(model)).save_pretrained(model)
    for split, num_rows in (("train", 40), ("dev", 14)):
        write_documents(tmp_path / f"{split}.jsonl", num_rows, seed=num_rows)
    alone, two = tmp_path / "alone", tmp_path / "two"
    recipe = recipe_of(tmp_path, f"model.path={model}", "task.objective=masked")
    train(recipe, alone, world_size=1)
    train(recipe, two, world_size=2)
    of_dev = numbers(alone, "eval")
    assert abs(of_dev[0]) < 1e-6 and of_dev[5] > 1e-3
    assert_alike(two, alone)


def test_a_head_that_is_new_has_nothing_to_compare_with(tmp_path: Path) -> None:
    write_encoder(tmp_path / "model")  # BERT without the head of its pretraining
    for split in ("train", "dev"):
        write_documents(tmp_path / f"{split}.jsonl", 14)
    recipe = recipe_of(tmp_path, f"model.path={tmp_path}/model", "task.objective=masked")
    with pytest.raises(AssertionError, match=r"model.path: .* has no weights for cls.predictions"):
        train(recipe, tmp_path / "run", world_size=1)
