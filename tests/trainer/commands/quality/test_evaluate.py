"""`shardtune eval`: the metrics of an exported model on rows that its run has not seen, or has."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands import predict
from shardtune.trainer.commands.quality.evaluate import ExportedRun, evaluate_run, main, prepare_rows
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe, train, write_tiny
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_documents, write_reviews
from tests.trainer.tasks.token_classification.test_token_classification import write_tagged


def trained(recipe: Recipe, run_dir: Path) -> Path:
    """The directory of a run on one rank."""
    assert all(train(recipe, run_dir, world_size=1)[0])
    (run_dir / "config.yaml").write_text(recipe.model_dump_json())
    return run_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Path:
    return trained(tiny_recipe(folder, "train.max_steps=6"), folder / "classifier")


@pytest.fixture(scope="module")
def tagger(folder: Path) -> Path:
    """A run whose long rows are cut into windows."""
    overrides = ["task={kind: token_classification, stride: 2}", "data.max_tokens=20", "train.max_steps=6"]
    for split, num_rows in (("train", 67), ("dev", 29), ("test", 31)):
        write_tagged(folder / f"tagged-{split}.jsonl", num_rows, seed=num_rows)
        overrides.append(f"data.{split}={folder}/tagged-{split}.jsonl")
    return trained(tiny_recipe(folder, *overrides), folder / "tagger")


@pytest.fixture(scope="module")
def causal(folder: Path) -> Path:
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN], chat_template=None)
    overrides = ["task={kind: language_modeling}", f"model.path={folder}/causal", "data.max_tokens=24"]
    for seed, split in enumerate(("train", "dev", "test")):
        write_documents(folder / f"texts-{split}.jsonl", 30, seed=seed)
        overrides.append(f"data.{split}={folder}/texts-{split}.jsonl")
    return trained(tiny_recipe(folder, *overrides, "train.max_steps=4"), folder / "modeler")


def evaluated(run_dir: Path, *words: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([str(run_dir), *words, "--json", "--device=cpu"]) == 0, capsys.readouterr().err
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.parametrize("name", ["classifier", "tagger", "causal"])
def test_the_test_split_of_a_run_has_the_metrics_of_its_results(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir: Path = request.getfixturevalue(name)
    test = json.loads((run_dir / "results.json").read_text())["test"]
    config = json.loads((run_dir / "config.yaml").read_text())
    report = evaluated(run_dir, f"--data={config['data']['test']}", capsys=capsys)
    assert report["metrics"] == test
