"""Checks the planner's memory against the real step of a recipe's model, traced without weights and without a GPU.

`python -m shardtune.trainer.commands.planning.trace RECIPE [key=value …] [--gpu=NAME]`: exit code 2 if anything
is wrong with the recipe or the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shardtune.argument_parser import OneLineParser
from shardtune.ds_config.resolve import ds_config_of
from shardtune.errors import ConfigError
from shardtune.planner.forecast.of_recipe import DataSize, plan_recipe
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster, Job
from shardtune.planner.memory import gpu_memory
from shardtune.planner.model_shape import ModelShape, shape_of_config, shape_of_sizes
from shardtune.planner.strategy import states_of
from shardtune.processes import run_piped
from shardtune.recipe.load import load_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.json_output import print_report
from shardtune.trainer.model.pretrained import load_model_config
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings
from shardtune.trainer.setup.trace.step import trace_step

USUAL_GPU = "h100-sxm-80g"
"""What decides on precision and micro-batches, where neither the recipe nor a flag does."""


@dataclass(frozen=True)
class Traced:
    """A step in the largest micro-batch, on one rank that has everything, as traced and as planned."""

    model: str
    gpu: str
    precision: str
    rows: int
    tokens: int
    """Of a row."""
    traced_bytes: Mapping[str, int]
    """By kind: parameters, gradients, optimizer, activations, temporary."""
    planned_bytes: Mapping[str, float] | None
    """By term; None if the planner does not know the architecture."""
    note: str | None
    """Why there are none."""

    @property
    def difference(self) -> float | None:
        """By which part of the traced bytes the planned ones are more."""
        if self.planned_bytes is None:
            return None
        return sum(self.planned_bytes.values()) / sum(self.traced_bytes.values()) - 1


def trace(recipe: Recipe, gpu: str) -> Traced:
    """The step of a recipe's largest micro-batch. Raises ConfigError or DataError for a recipe or a model that is
    wrong."""
    config = load_model_config(recipe)
    shape, note = _shape(recipe, config)
    job = _job(recipe, shape, gpu)
    traced = trace_step(recipe, config, job)
    return Traced(
        model=recipe.model.path,
        gpu=gpu,
        precision=job.precision,
        rows=round(job.batch.rows),
        tokens=round(job.batch.tokens),
        traced_bytes=traced,
        planned_bytes=dict(gpu_memory(job).terms) if note is None else None,
        note=note,
    )


def _shape(recipe: Recipe, config: Any) -> tuple[ModelShape, str | None]:
    """The shape of the model; or a stand-in of its size, and why the planner does not know it."""
    try:
        return shape_of_config(config.to_dict(), num_labels=2 if recipe.task.has_labels else None), None
    except ConfigError as error:
        if recipe.train.micro_batch_tokens == "auto":
            fault = f"{error}; to trace it, set train.micro_batch_tokens to a number"
            raise ConfigError(fault) from None
        return shape_of_sizes(1e9, 16), str(error)


def _job(recipe: Recipe, shape: ModelShape, gpu: str) -> Job:
    """The recipe's largest micro-batch, on one rank that has everything and exchanges nothing."""
    one = find_gpu(gpu)
    cluster = Cluster(gpu=one, gpus_per_node=recipe.job.gpus_per_node or 8, num_nodes=recipe.job.nodes)
    job = plan_recipe(recipe, shape, cluster, DataSize()).largest
    whole = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"deepspeed": "zero0"})})
    states = replace(states_of(ds_config_of(whole, hidden_size=shape.hidden), job.precision), bucket=0)
    batch = replace(job.batch, rows=max(1, round(job.batch.rows)))
    return replace(job, states=states, batch=batch, cluster=Cluster(gpu=one, gpus_per_node=1))


def show(found: Traced) -> None:
    """Prints what was traced, what is planned, and by how much they differ."""
    print(f"step           {found.rows} rows of {found.tokens:,} tokens in {found.precision}, all states on one GPU")
    print(f"traced         {_terms(found.traced_bytes)}")
    if found.planned_bytes is None:
        print(f"planned        nothing: {found.note}")
        return
    print(f"planned        {_terms(found.planned_bytes)}")
    print(f"difference     {found.difference:+.1%}")


def _terms(terms: Mapping[str, float]) -> str:
    """`430.1 MiB: parameters 10.4, gradients 20.8`."""
    total = sum(terms.values())
    unit, size = ("GiB", 2**30) if total >= 2**30 else ("MiB", 2**20)
    parts = ", ".join(f"{name} {part / size:.1f}" for name, part in terms.items() if part >= 0.05 * size)
    return f"{total / size:.1f} {unit}: {parts}"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune plan --trace", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe's keys")
    parser.add_argument("--gpu", default=USUAL_GPU, help="what decides on precision and micro-batches")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments = parser.parse_intermixed_args(argv)
    drop_deprecation_warnings()
    return print_report(
        lambda: trace(load_recipe(arguments.recipe, arguments.overrides), arguments.gpu),
        show,
        as_json=arguments.json,
    )


if __name__ == "__main__":
    run_piped(main)
