"""A recipe and the flags of `shardtune plan` -> the forecast."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.plan.model_and_data import data_size, model_shape, number_of
from shardtune.planner.forecast.forecast import Forecast, forecast
from shardtune.planner.hardware import find_gpu, gpus_of_file
from shardtune.planner.job import Cluster
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.run import find_run

USUAL_GPUS = 8
"""GPUs of a node, where neither the recipe nor a flag says."""


@dataclass(frozen=True)
class Machines:
    """The machines that a user asks about, as typed; None where this machine or the recipe says."""

    gpu: str | None
    gpus_per_node: str | None
    nodes: str | None
    network: str | None
    hardware: Path | None

    def cluster(self, recipe: Recipe, machine: Machine) -> Cluster:
        """The machines. Raises ConfigError for a GPU that is not known, and for numbers that are not above 0."""
        more = gpus_of_file(self.hardware) if self.hardware else ()
        name = self.gpu or machine.gpu_name
        assert name is not None, "a forecast needs a GPU"
        here = recipe.job.ranks or (USUAL_GPUS if self.gpu else machine.num_gpus)
        return Cluster(
            gpu=find_gpu(name, more),
            gpus_per_node=_count(self.gpus_per_node, "--gpus-per-node", recipe.job.gpus_per_node or here),
            num_nodes=_count(self.nodes, "--nodes", recipe.job.nodes),
            network_gb_s=None if self.network is None else number_of(self.network, "--network") / 8,
        )


def _count(text: str | None, flag: str, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"shardtune: {flag} takes a number above 0, got {text!r}")
    return int(text)


def plan_forecast(
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    machine: Machine,
    machines: Machines,
    sizes: dict[str, str | None],
    rows: str | None,
    tokens: str | None,
    price: str | None,
) -> Forecast:
    """The forecast. Raises ConfigError for a recipe or a flag that is wrong, and CheckpointError as find_run."""
    run = find_run(path, overrides, run_dir)
    recipe = run.recipe
    cluster = machines.cluster(recipe, machine)
    cost = None if price is None else number_of(price, "--price-per-gpu-hour")
    data = data_size(recipe, run.run_dir, rows, tokens)
    return forecast(recipe, model_shape(recipe, sizes), cluster, data, price=cost)
