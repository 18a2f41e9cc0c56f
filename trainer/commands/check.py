"""What a recipe's data are, as the loss will see them; nothing is trained.

`python -m shardtune.trainer.commands.check RECIPE [key=value …]`: exit code 2 if anything is wrong with the recipe, the
data or the model.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardtune.ds_config.resolve import stage_of
from shardtune.recipe.load import load_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.commands.check_report import Lengths, Report, SplitReport
from shardtune.trainer.commands.json_output import print_report
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.steps import training_order
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import Prepared, prepare
from shardtune.trainer.data.prepare.sources import SPLITS
from shardtune.trainer.data.prepare.splits import REPORTED
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.setup.footprint import footprint
from shardtune.trainer.setup.micro_batch import estimate, lay_out_first_steps, most_wanted
from shardtune.trainer.setup.out_of_memory import share_of_memory
from shardtune.trainer.tasks import TASKS, Task

NUM_BINS = 16


def check(recipe: Recipe, *, world_size: int, num_previews: int) -> Report:
    """Prepares the data (or takes them from the cache) and looks at them.

    Raises ConfigError or DataError with every fault that was found.
    """
    notes: list[str] = []
    prepared = prepare(recipe, num_ranks=world_size, say=notes.append)
    tokenizer, config = load_tokenizer(recipe), load_model_config(recipe)
    task = TASKS[recipe.task.kind](recipe.task, prepared.facts, tokenizer, config)
    train = prepared.split("train")
    assert train is not None, "a recipe always names training data"
    order = training_order(train, recipe)
    # As if the model kept packed rows apart: whether it does is asked when it has been loaded.
    is_packed = task.packable and recipe.data.packing != "off"
    packing = Packing(recipe.data.max_tokens, is_flat=False) if is_packed else None
    batch_maker = BatchMaker(task, Ranks(0, world_size, 0, torch.device("cpu")), packing)  # of rank 0; no collectives
    stage = stage_of(recipe)
    budget = recipe.train.micro_batch_tokens
    if budget == "auto":
        has_gpu = recipe.job.device != "cpu" and torch.cuda.is_available()
        budget = estimate(
            recipe,
            task,
            longest=int(train.lengths.max()),
            wanted=most_wanted(train, recipe, batch_maker),
            stage=stage,
            world_size=world_size,
            memory=share_of_memory(torch.device("cuda" if has_gpu else "cpu"), world_size),
        )
        notes.append(f"train.micro_batch_tokens: auto is {budget:,} by the estimate; a run tries it out first")
    steps = lay_out_first_steps(train, order, replace(batch_maker, micro_batch_tokens=budget))
    return Report(
        task=recipe.task.kind,
        model=recipe.model.path,
        world_size=world_size,
        splits={
            name: _report(split, prepared, task, recipe, num_previews)
            for name in SPLITS
            if (split := prepared.split(name)) is not None
        },
        notes=notes,
        rows={key: prepared.meta[key] for key in REPORTED} | {"sources": _sources(recipe, prepared.meta["sources"])},
        steps_per_epoch=order.steps_per_epoch,
        num_steps=order.num_steps(recipe.train.num_epochs, recipe.train.max_steps),
        micro_batch_tokens=budget,
        largest_micro_batch=steps.largest,
        padding_efficiency=steps.padding_efficiency,
        memory=footprint(
            recipe,
            task,
            load_model_config(recipe, task),
            stage=stage,
            world_size=world_size,
            batch=steps.largest,
            num_targets=steps.num_targets,
        ),
    )


def _sources(recipe: Recipe, counts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What was counted of each source under the name that it has now; prepared data are known by what is in them."""
    sources = [source for split in SPLITS for source in recipe.data.sources(split)]
    return [
        {**its, "name": source.name or source.path, "path": source.path}
        for its, source in zip(counts, sources, strict=True)
    ]


def _report(split: Split, prepared: Prepared, task: Task, recipe: Recipe, num_previews: int) -> SplitReport:
    lengths = np.asarray(split.lengths)
    counts, edges = np.histogram(lengths, bins=min(NUM_BINS, int(lengths.max())), range=(0, int(lengths.max())))
    rows = np.unique(np.linspace(0, len(split) - 1, min(num_previews, len(split))).astype(np.int64))
    return SplitReport(
        facts=prepared.meta["splits"][split.name],
        labels=task.label_counts(prepared.facts).get(split.name, {}),
        lengths=Lengths(
            mean=float(lengths.mean()),
            median=int(np.median(lengths)),
            p95=int(np.percentile(lengths, 95)),
            longest=int(lengths.max()),
            edges=[round(edge) for edge in edges.tolist()],
            counts=counts.tolist(),
            full=int((lengths >= recipe.data.max_tokens).sum()),
        ),
        previews=[task.preview(example) for example in split.examples(rows)] if num_previews else [],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("shardtune check", description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--previews", type=int, default=3, help="examples of each split to show, token by token")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_intermixed_args(argv)

    def make() -> Report:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        return check(recipe, world_size=arguments.ranks, num_previews=arguments.previews)

    def show(report: Report) -> None:
        from shardtune.trainer.commands import check_view

        check_view.show(report)

    return print_report(make, show, as_json=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
