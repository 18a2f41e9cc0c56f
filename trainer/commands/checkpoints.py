"""A run's checkpoints as a table, or as JSON: how far, how good, how large, and whether they are as they were written.

`python -m shardtune.trainer.commands.checkpoints RUN_DIR [--json] [--quick]`
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError, ShardtuneError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.run_dir.files import CHECKPOINTS
from shardtune.run_dir.run import read_config
from shardtune.trainer.checkpoint.manifest import (
    best_first,
    checkpoint_folders,
    complete_checkpoints,
    damage,
    open_checkpoint,
    step_of,
)
from shardtune.trainer.tasks import TASKS


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser("shardtune checkpoints", description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--quick", action="store_true", help="look at the sizes alone, without reading the files")
    arguments = parser.parse_args(argv)
    try:
        found = list(list_checkpoints(arguments.run_dir, quick=arguments.quick))
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        print(render_table(found) if found else f"{arguments.run_dir} has no checkpoint yet")
    return EXIT_OK


def list_checkpoints(run_dir: Path, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A JSON object for each checkpoint, oldest first; `state` is verified, complete (if quick), or what is wrong.

    Raises CheckpointError if it is not a run directory.
    """
    recipe = read_config(run_dir)
    folder = run_dir / CHECKPOINTS
    complete = complete_checkpoints(folder)
    metric = recipe.checkpoint.best_metric or (complete[-1].manifest.best_metric if complete else "loss")
    lower_is_better = metric in TASKS[recipe.task.kind].lower_is_better
    best = next(iter(best_first(complete, metric, lower_is_better=lower_is_better)), None)
    for path in checkpoint_folders(folder):
        its: dict[str, Any] = {"step": step_of(path), "path": str(path)}
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError as error:
            yield its | {"state": str(error), "whole": False}
            continue
        manifest = checkpoint.manifest
        problem = None if quick else damage(checkpoint, manifest.files)
        yield its | {
            "state": problem or ("complete" if quick else "verified"),
            "whole": problem is None,
            "metric": metric,
            "value": manifest.metric(metric),
            "best": checkpoint == best,
            "num_bytes": manifest.num_bytes,
            "written_at": manifest.written_at,
            "layout": dict(manifest.layout),
            "recipe_hash": manifest.recipe_hash,
            "versions": dict(manifest.versions),
        }
    for path in sorted(folder.glob(".step-*[0-9]")):
        state = "being written now, or left by a run that was killed"
        yield {"step": int(path.name.removeprefix(".step-")), "path": str(path), "state": state, "whole": False}


def render_table(found: Sequence[dict[str, Any]]) -> str:
    """A line each; nothing is cut, however narrow the terminal."""
    metric = next((its["metric"] for its in found if "metric" in its), "metric")
    rows = [("step", metric, "size", "saved", "state")]
    for its in found:
        value = its.get("value")
        rows.append(
            (
                f"{its['step']:,}",
                "" if value is None else f"{value:.4f}{' *' if its['best'] else ''}",
                f"{its['num_bytes'] / 1e9:.2f} GB" if "num_bytes" in its else "",
                time.strftime("%Y-%m-%d %H:%M", time.localtime(its["written_at"])) if "written_at" in its else "",
                its["state"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=False)) for row in rows]
    table = [f"{line}  {row[-1]}" for line, row in zip(lines, rows, strict=True)]
    return "\n".join(
        [*table, *(["* the best by dev of those that are there"] if any(its.get("best") for its in found) else [])]
    )


if __name__ == "__main__":
    sys.exit(main())
