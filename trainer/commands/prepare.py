"""Prepares a recipe's data ahead of a run, in one process, without training.

`python -m shardtune.trainer.commands.prepare RECIPE [key=value …]`: exit code 2 if anything is wrong with the recipe or
the data. Started on several machines with a shared file system, the processes share the work.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.processes import run_piped
from shardtune.recipe.load import load_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG
from shardtune.run_dir.view.progress import PreparationProgress
from shardtune.trainer.commands.json_output import print_report
from shardtune.trainer.data.prepare.prepare import prepare
from shardtune.trainer.retention.preparation import prepare_retention


@dataclass(frozen=True)
class Report:
    """The prepared data, and the time it took."""

    path: str
    """The folder of the prepared data."""
    was_made: bool
    """False if the data had been prepared before."""
    seconds: float
    rows: int
    examples: int
    tokens: int
    tokens_per_s: float | None
    """None if the data had been prepared before."""
    shards: int
    bytes: int
    """Size of the folder on disk."""
    splits: dict[str, dict[str, Any]]
    """Counts of each split: rows, examples, tokens, targets, rows_dropped, rows_truncated, tokens_truncated."""
    notes: list[str]
    retention: dict[str, dict[str, Any]]
    """The same counts of each retention set, which is not in this folder."""


def report_on(recipe: Recipe, notes: list[str]) -> Report:
    """Prepares the data and returns the report. Raises DataError if anything is wrong with the data."""
    since = time.monotonic()
    how: dict[str, Any] = {"say": notes.append, "progress": PreparationProgress(sys.stderr)}
    prepared = prepare(recipe, **how)
    retention = prepare_retention(recipe, prepared, **how)
    seconds = time.monotonic() - since
    splits: dict[str, dict[str, Any]] = prepared.meta["splits"]
    totals = {name: sum(split[name] for split in splits.values()) for name in ("rows", "examples", "tokens")}
    files = [path for path in prepared.folder.iterdir() if path.is_file()]
    return Report(
        path=str(prepared.folder),
        was_made=prepared.was_made,
        seconds=round(seconds, 3),
        **totals,
        tokens_per_s=round(totals["tokens"] / seconds) if prepared.was_made else None,
        shards=sum(path.suffix == ".arrow" for path in files),
        bytes=sum(path.stat().st_size for path in files),
        splits=splits,
        notes=notes,
        retention={held_out.name: held_out.prepared.meta["splits"][held_out.split_name] for held_out in retention.sets},
    )


def _show(report: Report) -> None:
    for note in report.notes:
        print(note, file=sys.stderr)
    sets = {f"retention: {name}": split for name, split in report.retention.items()}
    for name, split in {**report.splits, **sets}.items():
        counts = ", ".join(f"{split[key]:,.0f} {key}" for key in ("rows", "examples", "tokens", "targets"))
        print(f"{name:6} {counts}")
    speed = f", {report.tokens_per_s:,} tokens/s" if report.tokens_per_s is not None else "; they were already prepared"
    print(f"{counted(report.shards, 'shard')} of {report.bytes / 1e6:,.1f} MB in {report.path}")
    print(f"{report.seconds:,.1f} s{speed}")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune prepare", description=__doc__)
    parser.add_argument("recipe", type=Path, help="a recipe file or a run directory")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe's keys")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    arguments = parser.parse_intermixed_args(argv)
    path = arguments.recipe / CONFIG if arguments.recipe.is_dir() else arguments.recipe
    return print_report(lambda: report_on(load_recipe(path, arguments.overrides), []), _show, as_json=arguments.json)


if __name__ == "__main__":
    run_piped(main)
