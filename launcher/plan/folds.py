"""The runs of a cross-validation: a sweep whose points each leave another equal part of the training rows out."""

import json
from pathlib import Path
from typing import Any

from shardtune.errors import ConfigError
from shardtune.launcher.plan.sweep import SweepPlan, plan_sweep
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG, absolute

ALONE = ("report.wandb=disabled", "report.also=[]", "report.artifacts=[]")
"""The folds are only means to an end: experiment trackers are not told."""


def plan_folds(run_dir: Path, recipe: Recipe, num_folds: int) -> SweepPlan:
    """The folds of a run, each a run beside it that is tested on its own part of the training rows.

    Raises ConfigError if its rows cannot be divided so.
    """
    if num_folds < 2:
        raise ConfigError(f"shardtune: --folds: got {num_folds}; give 2 or more, such as 5")
    if recipe.data.streaming:
        raise ConfigError("shardtune: --folds: data.streaming has no folds, because its rows are read only once")
    shared = recipe.data.share("dev") or recipe.data.share("test")
    # Two shares of the same rows have to agree on these.
    drawn = {} if shared is None else {"group": shared.group, "seed": shared.seed}
    variations = [[f"data.test={json.dumps(_fold(number, num_folds, drawn))}"] for number in range(num_folds)]
    sweep_dir = absolute(run_dir).with_name(f"{absolute(run_dir).name}-folds-{num_folds}")
    return plan_sweep(run_dir / CONFIG, ALONE, sweep_dir, variations)


def _fold(number: int, num_folds: int, drawn: dict[str, Any]) -> dict[str, Any]:
    return {"fraction": 1 / num_folds, "fold": number, **drawn}
