"""What `shardtune plan --table` says: a recipe on several kinds and numbers of machines, to choose from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from shardtune.errors import ConfigError
from shardtune.planner.advice.advice import machine_of, setting_name
from shardtune.planner.advice.choice import choose_strategy
from shardtune.planner.advice.search import Candidate, Question, judged, search
from shardtune.planner.advice.settings import Setting, with_strategy
from shardtune.planner.advice.text_table import lined_up
from shardtune.planner.forecast.forecast import GIB, duration
from shardtune.planner.job import Cluster
from shardtune.recipe.strategies import AUTO


@dataclass(frozen=True)
class Cell:
    """The recipe on one of the machines."""

    cluster: Cluster
    candidate: Candidate | None
    """With the recipe's own setting, or with the best one. None if the GPU cannot do what the recipe asks for."""
    fault: str | None = None
    """Why there is none."""

    @property
    def verdict(self) -> str:
        """`fits`, `tight`, `does not fit`, `host memory` if that is what does not fit, or `cannot`."""
        if self.candidate is None:
            return "cannot"
        return self.candidate.forecast.verdict if self.candidate.has_host else "host memory"

    def as_json(self) -> dict[str, Any]:
        """All of it, for programs."""
        found = self.candidate
        cell: dict[str, Any] = {**machine_of(self.cluster), "verdict": self.verdict, "fault": self.fault}
        if found is None:
            return cell
        setting = found.setting
        return cell | {
            "engine.deepspeed": setting.deepspeed,
            "train.micro_batch_tokens": setting.micro_batch_tokens,
            "model.activation_checkpointing": setting.activation_checkpointing,
            "used_bytes": round(found.forecast.memory.used),
            "step_seconds": found.step_s,
            "run_seconds": found.forecast.run_s,
            "gpu_hours": found.forecast.gpu_hours,
            "cost": found.forecast.cost,
        }


def matrix(question: Question, clusters: Sequence[Cluster], *, is_searched: bool) -> list[Cell]:
    """The recipe on each of these machines: as it is, or with the setting that is fastest there."""
    return [_cell(question, each, is_searched=is_searched) for each in clusters]


def _cell(question: Question, cluster: Cluster, *, is_searched: bool) -> Cell:
    try:
        if not is_searched:
            return Cell(cluster, as_it_is(question, cluster))
        found = search(question, cluster)
        return Cell(cluster, found.best or found.nearest)
    except ConfigError as error:
        return Cell(cluster, None, str(error))


def as_it_is(question: Question, cluster: Cluster) -> Candidate:
    """The recipe's own setting, in which engine.deepspeed: auto is chosen. Raises ConfigError."""
    recipe = question.recipe
    if recipe.engine.deepspeed == AUTO:
        recipe = with_strategy(recipe, choose_strategy(question, cluster).deepspeed)
    model, tokens = recipe.model, recipe.train.micro_batch_tokens
    setting = Setting(recipe.engine.deepspeed, 0 if tokens == "auto" else tokens, model.activation_checkpointing)
    found = judged(question, cluster, setting, recipe)
    planned = found.forecast.planned.micro_batch_tokens
    return replace(found, setting=replace(setting, micro_batch_tokens=planned))


def describe(cells: Sequence[Cell], *, has_price: bool) -> str:
    """The cells as text, a line each."""
    cost = ["cost"] if has_price else []
    head = ["GPUs", "memory", "GPU GiB", "step", "run", "GPU-hours", *cost, "setting"]
    faults = dict.fromkeys(cell.fault for cell in cells if cell.fault is not None)
    return "\n".join([*lined_up([head, *(_row(cell, has_price=has_price) for cell in cells)]), *faults])


def _row(cell: Cell, *, has_price: bool) -> list[str]:
    cluster, found = cell.cluster, cell.candidate
    name = f"{cluster.num_nodes} x {cluster.gpus_per_node} x {cluster.gpu.name}"
    if found is None:
        return [name, cell.verdict, *["-"] * (5 + has_price)]
    forecast = found.forecast
    hours, cost, run = forecast.gpu_hours, forecast.cost, forecast.run_s
    return [
        name,
        cell.verdict,
        f"{forecast.memory.used / GIB:.1f}",
        duration(found.step_s),
        "-" if run is None else duration(run),
        "-" if hours is None else f"{hours:,.1f}",
        *(["-" if cost is None else f"{cost:,.2f}"] if has_price else []),
        setting_name(found),
    ]
