"""What W&B shows as the configuration of a run: its recipe, what was planned, and with what it trains. Pure but for
reading the run directory."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardtune.recipe.schema import Recipe
from shardtune.run_dir.view.plan_file import read_plan


def config_of(recipe: Recipe, run_dir: Path, environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The resolved recipe under its own keys, such as optim.lr, beside `plan`, `environment` and the `run_dir`."""
    config: dict[str, Any] = {**recipe.model_dump(mode="json"), "run_dir": str(run_dir)}
    if (plan := read_plan(run_dir)) is not None:
        config["plan"] = plan
    if environment is not None:
        config["environment"] = dict(environment)
    return config
