"""Shows a recipe's data as the loss will see them; nothing is trained.

`python -m shardtune.trainer.commands.check RECIPE [key=value …]`: exit code 2 if anything is wrong with the recipe, the
data or the model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.ds_config.resolve import ds_config_notice
from shardtune.processes import run_piped
from shardtune.recipe.load import load_recipe
from shardtune.recipe.schema import Recipe
from shardtune.trainer.between_steps.base_answers import describe_costs
from shardtune.trainer.commands.check_report import Cut, Lengths, MemoryReport, Report, SplitReport
from shardtune.trainer.commands.json_output import print_report
from shardtune.trainer.data.batches.batch_maker import BatchMaker
from shardtune.trainer.data.batches.bins import Packing
from shardtune.trainer.data.batches.steps import part_note, training_order, training_split
from shardtune.trainer.data.prepare.example_shards import Split
from shardtune.trainer.data.prepare.prepare import NO_LIMIT, Prepared, most_tokens, prepare
from shardtune.trainer.data.prepare.sources import SPLITS
from shardtune.trainer.data.prepare.splits import REPORTED
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.deepspeed_engine import refuse_bad_ds_config
from shardtune.trainer.engine.objective.reference import refuse_sharded_copy
from shardtune.trainer.model.head import choose_head
from shardtune.trainer.model.pretrained import load_model_config, load_tokenizer
from shardtune.trainer.model.quantized.loading import refuse_without_bitsandbytes
from shardtune.trainer.reporting.ineffective_settings import settings_without_effect
from shardtune.trainer.retention.missing_heads import refuse_missing_heads
from shardtune.trainer.retention.preparation import prepare_retention
from shardtune.trainer.retention.sets import HeldOut
from shardtune.trainer.setup.attention.cost import expected_cost
from shardtune.trainer.setup.memory_plan import grouped, memory_of, model_size, rank_job
from shardtune.trainer.setup.micro_batch import FirstSteps, estimate, lay_out_first_steps, most_wanted
from shardtune.trainer.setup.out_of_memory import share_of_memory
from shardtune.trainer.setup.regularize.earlier_skill import earlier_recipe, naming_its_key
from shardtune.trainer.tasks import Task, task_of

NUM_BINS = 16
WARN_PERCENT = 10.0
"""Above this percentage of truncated rows the report has a warning."""


def check(recipe: Recipe, *, world_size: int, num_previews: int) -> Report:
    """Prepares the data, or takes them from the cache, and reports on them.

    Raises ConfigError or DataError with every fault that was found.
    """
    refuse_bad_ds_config(recipe)
    refuse_without_bitsandbytes(recipe)
    refuse_sharded_copy(recipe)
    notes = [notice] if (notice := ds_config_notice(recipe)) is not None else []
    prepared = prepare(recipe, num_ranks=world_size, say=notes.append)
    retention = prepare_retention(recipe, prepared, say=notes.append)
    if "near_duplicates" not in prepared.meta:
        notes.append(
            "near duplicates between splits are not known of these data, which an earlier version has prepared; "
            "data.near_duplicates=count counts them"
        )
    tokenizer, config = load_tokenizer(recipe), load_model_config(recipe)
    task = task_of(recipe, prepared.facts, tokenizer, config)
    if note := choose_head(recipe, task, config).note:
        notes.append(note)
    earlier = _earlier_rows(recipe)
    if earlier is not None:
        notes.append(_note_on_earlier_rows(recipe, earlier))
    refuse_missing_heads(recipe, task, retention, earlier)
    train = training_split(prepared, recipe)
    if recipe.data.fraction != 1:
        notes.append(part_note(recipe, len(train)))
    order = training_order(train, recipe)
    # As if the model kept packed rows apart: whether it does is asked when it has been loaded.
    is_packed = task.packable and recipe.data.packing != "off"
    packing = Packing(recipe.data.max_tokens, is_flat=False) if is_packed else None
    ranks = Ranks(0, world_size, 0, torch.device("cpu"))  # of rank 0; no collectives
    batch_maker = BatchMaker(task, ranks, packing, cost=expected_cost(recipe, task, train))
    budget = recipe.train.micro_batch_tokens
    if budget == "auto":
        budget = _estimated_budget(recipe, task, train, batch_maker, world_size=world_size)
        notes.append(f"train.micro_batch_tokens: auto is estimated as {budget:,}; a run tries it out first")
    num_steps = order.num_steps(recipe.train.num_epochs, recipe.train.max_steps)
    steps = lay_out_first_steps(train, order, replace(batch_maker, micro_batch_tokens=budget))
    splits = {
        name: _report(split, prepared, task, recipe, num_previews)
        for name in SPLITS
        if (split := prepared.split(name)) is not None
    }
    return Report(
        task=recipe.task.kind,
        model=recipe.model.path,
        world_size=world_size,
        splits=splits,
        warnings=[
            *cut_warnings(splits, recipe.data.max_tokens, most_tokens(config, tokenizer)),
            *settings_without_effect(recipe, prepared.facts, num_steps=num_steps),
        ],
        notes=[*notes, *_costs_of_base(recipe, task, prepared)],
        rows={key: prepared.meta.get(key) for key in REPORTED}
        | {"sources": _sources(recipe, prepared.meta["sources"])},
        steps_per_epoch=order.steps_per_epoch,
        num_steps=num_steps,
        micro_batch_tokens=budget,
        largest_micro_batch=steps.largest,
        padding_efficiency=steps.padding_efficiency,
        memory=_memory(recipe, task, steps, world_size=world_size),
        retention={held_out.name: _report_on_set(held_out) for held_out in retention.sets},
    )


def _earlier_rows(recipe: Recipe) -> Prepared | None:
    """The prepared rows of regularize.ewc, if it is set. Raises DataError with what is wrong with them."""
    if (ewc := recipe.regularize.ewc) is None:
        return None
    with naming_its_key():
        return prepare(earlier_recipe(recipe, ewc))


def _note_on_earlier_rows(recipe: Recipe, earlier: Prepared) -> str:
    split, ewc = earlier.split("train"), recipe.regularize.ewc
    assert split is not None and ewc is not None, "its rows are those of train"
    used = min(ewc.rows, len(split))
    return f"regularize.ewc: the Fisher information is that of {used:,} of {counted(len(split), 'earlier row')}"


def _costs_of_base(recipe: Recipe, task: Task, prepared: Prepared) -> list[str]:
    """What it takes to compare the model with the pretrained one, a line for each key that asks for it."""
    if not recipe.compares_with_base:
        return []
    shape = model_size(recipe, task, load_model_config(recipe, task)).shape
    dev = prepared.split("dev")
    return describe_costs(
        recipe,
        num_parameters=shape.num_parameters,
        layer=(shape.vocabulary, shape.hidden),
        num_targets=0.0 if dev is None else float(dev.num_targets.sum()),
    )


def _memory(recipe: Recipe, task: Task, steps: FirstSteps, *, world_size: int) -> MemoryReport:
    """The memory of a rank in the largest of the first micro-batches."""
    size = model_size(recipe, task, load_model_config(recipe, task))
    memory = memory_of(
        rank_job(recipe, size, world_size=world_size), size, steps.largest, num_targets=steps.num_targets
    )
    return MemoryReport(
        num_parameters=size.num_parameters,
        num_trained=size.num_trained,
        peak=memory.peak_instant,
        terms={name: round(num_bytes) for name, num_bytes in grouped(memory).items()},
        total=round(memory.used),
    )


def _estimated_budget(recipe: Recipe, task: Task, train: Split, batch_maker: BatchMaker, *, world_size: int) -> int:
    """train.micro_batch_tokens, as `auto` would begin with it on this machine."""
    has_gpu = recipe.job.device != "cpu" and torch.cuda.is_available()
    return estimate(
        recipe,
        task,
        longest=int(train.lengths.max()),
        wanted=most_wanted(train, recipe, batch_maker),
        world_size=world_size,
        memory=share_of_memory(torch.device("cuda" if has_gpu else "cpu"), world_size),
    )


def _sources(recipe: Recipe, counts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The counts of each source under its name in this recipe: prepared data are found by content, not by name."""
    sources = [source for split in SPLITS for source in recipe.data.sources(split)]
    return [
        {**source_counts, "name": source.name or source.path, "path": source.path}
        for source_counts, source in zip(counts, sources, strict=True)
    ]


def _report(split: Split, prepared: Prepared, task: Task, recipe: Recipe, num_previews: int) -> SplitReport:
    lengths = np.asarray(split.lengths)
    edges = bin_edges(int(lengths.min()), int(lengths.max()))
    counts, _ = np.histogram(lengths, bins=[edge + 0.5 for edge in edges])
    facts = prepared.meta["splits"][split.name]
    rows = np.unique(np.linspace(0, len(split) - 1, min(num_previews, len(split))).astype(np.int64))
    return SplitReport(
        facts=facts,
        labels=task.label_counts(prepared.facts).get(split.name, {}),
        lengths=Lengths(
            mean=float(lengths.mean()),
            median=int(np.median(lengths)),
            p95=int(np.percentile(lengths, 95)),
            longest=int(lengths.max()),
            edges=edges,
            counts=counts.tolist(),
            full=int((lengths >= recipe.data.max_tokens).sum()),
        ),
        cut=count_cut(facts, recipe.task.kind),
        previews=[task.preview(example) for example in split.examples(rows)] if num_previews else [],
    )


def _report_on_set(held_out: HeldOut) -> SplitReport:
    """The rows of a retention set, without examples to read."""
    task, _ = held_out.task()
    return _report(held_out.split, held_out.prepared, task, held_out.recipe, 0)


def bin_edges(shortest: int, longest: int) -> list[int]:
    """Edges of about NUM_BINS bins of equal, round width, the last of which ends at `longest`.

    A bin holds the lengths above its lower edge, up to and including its upper edge.
    """
    widths = (step * 10**power for power in count() for step in (1, 2, 5))
    width = next(width for width in widths if width * NUM_BINS >= longest - shortest + 1)
    return [*range((shortest - 1) // width * width, longest, width), longest]


def count_cut(facts: Mapping[str, Any], kind: str) -> Cut:
    """What data.max_tokens cut off a split, by the counts of its preparation."""
    rows: int | None = facts["rows_truncated"]
    lost: int | None = facts.get("tokens_truncated")
    if lost is None and kind == "classification":
        rows = None  # whose truncated rows were not counted either, before the tokens were
    return Cut(
        rows=rows,
        rows_percent=None if rows is None else _percent(rows, facts["rows"]),
        tokens_lost=lost,
        tokens_lost_percent=None if lost is None else _percent(lost, facts["tokens"] + lost),
        is_exact=kind != "chat",
        into_windows=facts["examples"] > facts["rows"] - facts["rows_dropped"],
    )


def cut_warnings(splits: Mapping[str, SplitReport], max_tokens: int, limit: int) -> list[str]:
    """A warning for each split of which more than WARN_PERCENT of the rows are truncated, with the cure."""
    if max_tokens >= limit:
        cure = "the model takes no more: shorten or split the texts, or take a model for longer ones"
    else:
        cure = "raise data.max_tokens" + (f" (this model takes up to {limit:,})" if limit < NO_LIMIT else "")
    warnings = []
    for name, split in splits.items():
        cut = split.cut
        if cut.rows is None or cut.rows_percent is None or cut.rows_percent <= WARN_PERCENT:
            continue
        least = "" if cut.is_exact else "at least "
        loss = f", which loses {least}{cut.tokens_lost_percent:.1f} % of the tokens" if cut.tokens_lost else ""
        warnings.append(
            f"{name}: {cut.rows:,} of {split.facts['rows']:,} rows ({cut.rows_percent:.1f} %) are cut at "
            f"data.max_tokens={max_tokens}{loss}; {cure}"
        )
    return warnings


def _percent(part: int, whole: int) -> float:
    return 100 * part / max(1, whole)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune check", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe's keys")
    parser.add_argument("--ranks", type=int, default=1, help="the number of ranks to plan for")
    parser.add_argument("--previews", type=int, default=3, help="examples to show of each split, token by token")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments = parser.parse_intermixed_args(argv)

    def make() -> Report:
        recipe = load_recipe(arguments.recipe, arguments.overrides)
        return check(recipe, world_size=arguments.ranks, num_previews=arguments.previews)

    def show(report: Report) -> None:
        from shardtune.trainer.commands import check_view

        check_view.show(report)

    return print_report(make, show, as_json=arguments.json)


if __name__ == "__main__":
    run_piped(main)
