"""The folds of a run are runs of their own, that have no row of test in common."""

from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.launcher.plan.folds import plan_folds
from shardtune.recipe.load import load_recipe
from shardtune.run_dir.run import find_run, write_run_dir

RECIPE = """\
task: {{kind: classification}}
model: {{path: org/name}}
data: {{train: {folder}/train.jsonl, dev: {folder}/dev.jsonl}}
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def written(run_dir: Path, *overrides: str) -> Path:
    """The directory of a run that has not begun, with its recipe and empty data files beside it."""
    folder = run_dir.parent
    for split in ("train", "dev", "test"):
        (folder / f"{split}.jsonl").write_text("{}\n")
    (folder / "x.yaml").write_text(RECIPE.format(folder=folder))
    write_run_dir(find_run(run_dir.parent / "x.yaml", overrides, run_dir))
    return run_dir


def test_each_fold_is_tested_on_another_part_and_is_otherwise_the_same_recipe(run_dir: Path) -> None:
    recipe = load_recipe(written(run_dir, f"data.test={run_dir.parent}/test.jsonl", "optim.lr=3e-5") / "config.yaml")
    sweep = plan_folds(run_dir, recipe, 3)
    assert sweep.sweep_dir == run_dir.with_name("run-folds-3")
    shares = [point.recipe.data.share("test") for point in sweep.points]
    assert [(share.fold, share.num_folds) for share in shares if share] == [(0, 3), (1, 3), (2, 3)]
    for point in sweep.points:
        assert (point.recipe.data.dev, point.recipe.optim) == (recipe.data.dev, recipe.optim)
        assert point.recipe.report.wandb == "disabled"


def test_folds_agree_with_the_share_that_is_dev(run_dir: Path) -> None:
    recipe = load_recipe(written(run_dir, "data.dev={fraction: 0.1, group: chat, seed: 5}") / "config.yaml")
    for point in plan_folds(run_dir, recipe, 2).points:
        share = point.recipe.data.share("test")
        assert share is not None and (share.group, share.seed) == ("chat", 5)
        assert point.recipe.data.dev == recipe.data.dev


def test_what_cannot_be_divided_is_refused(run_dir: Path) -> None:
    recipe = load_recipe(written(run_dir, "data.streaming=true", "train.max_steps=5") / "config.yaml")
    with pytest.raises(ConfigError, match=r"--folds: data\.streaming has no folds"):
        plan_folds(run_dir, recipe, 5)
    with pytest.raises(ConfigError, match="--folds: got 1; give 2 or more"):
        plan_folds(run_dir, recipe, 1)
