"""Small finished runs, each trained once for all tests of this folder."""

from pathlib import Path

import pytest

from shardtune.recipe.schema import Recipe
from tests.support.runs import tiny_recipe, train, write_tiny
from tests.support.tiny import BAD, GOOD, PLAIN, SPOKEN, WRITTEN, write_causal, write_documents, write_toy_language
from tests.trainer.tasks.token_classification.test_token_classification import write_tagged


def trained(recipe: Recipe, run_dir: Path) -> Path:
    """The directory of a run on one rank."""
    assert all(train(recipe, run_dir, world_size=1)[0])
    (run_dir / "config.yaml").write_text(recipe.model_dump_json())
    return run_dir


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="package")
def classifier(folder: Path) -> Path:
    return trained(tiny_recipe(folder, "train.max_steps=6"), folder / "classifier")


@pytest.fixture(scope="package")
def tagger(folder: Path) -> Path:
    """A run whose long rows are cut into windows."""
    overrides = ["task={kind: token_classification, stride: 2}", "data.max_tokens=20", "train.max_steps=6"]
    for split, num_rows in (("train", 67), ("dev", 29), ("test", 31)):
        write_tagged(folder / f"tagged-{split}.jsonl", num_rows, seed=num_rows)
        overrides.append(f"data.{split}={folder}/tagged-{split}.jsonl")
    return trained(tiny_recipe(folder, *overrides), folder / "tagger")


@pytest.fixture(scope="package")
def causal(folder: Path) -> Path:
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN], chat_template=None)
    overrides = ["task={kind: language_modeling}", f"model.path={folder}/causal", "data.max_tokens=24"]
    for seed, split in enumerate(("train", "dev", "test")):
        write_documents(folder / f"texts-{split}.jsonl", 30, seed=seed)
        overrides.append(f"data.{split}={folder}/texts-{split}.jsonl")
    return trained(tiny_recipe(folder, *overrides, "train.max_steps=4"), folder / "modeler")


@pytest.fixture(scope="package")
def adapted(folder: Path) -> Path:
    """A translator with adapters, whose answers are generated."""
    write_toy_language(folder, **{f"toy-{split}": 12 for split in ("train", "dev", "test")})
    write_causal(folder / "talker", [*SPOKEN, *WRITTEN, "Translate", "to"])
    overrides = [f"data.{split}={folder}/toy-{split}.jsonl" for split in ("train", "dev", "test")]
    recipe = tiny_recipe(
        folder,
        "task={kind: translation, source_language: en, target_language: fr, max_new_tokens: 4}",
        f"model={{path: {folder}/talker, lora: {{r: 2}}}}",
        "train.max_steps=2",
        *overrides,
    )
    return trained(recipe, folder / "adapted")
