"""Lists a run's checkpoints as a table or as JSON: step, dev metric, size, and whether their files are intact.

`python -m shardtune.trainer.commands.checkpoints RUN_DIR [--json] [--quick]`
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shardtune.argument_parser import OneLineParser
from shardtune.errors import CheckpointError, ShardtuneError
from shardtune.processes import run_piped
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
    """Runs the command and returns its exit code."""
    parser = OneLineParser("shardtune checkpoints", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="a run directory")
    parser.add_argument("--json", action="store_true", help="print a JSON list with an object for each checkpoint")
    parser.add_argument("--quick", action="store_true", help="verify only the sizes of the files, not their contents")
    arguments = parser.parse_args(argv)
    try:
        checkpoints = list(list_checkpoints(arguments.run_dir, quick=arguments.quick))
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    if arguments.json:
        print(json.dumps(checkpoints, ensure_ascii=False, indent=1))
    else:
        print(render_table(checkpoints) if checkpoints else f"{arguments.run_dir} has no checkpoint yet")
    return EXIT_OK


def list_checkpoints(run_dir: Path, *, quick: bool = False) -> Iterator[dict[str, Any]]:
    """A JSON object for each checkpoint, oldest first; `state` is "verified", "complete" (if quick), or what is wrong.

    Raises CheckpointError if it is not a run directory.
    """
    recipe = read_config(run_dir)
    folder = run_dir / CHECKPOINTS
    complete = complete_checkpoints(folder)
    metric = recipe.checkpoint.best_metric or (complete[-1].manifest.best_metric if complete else "loss")
    lower_is_better = metric in TASKS[recipe.task.kind].lower_is_better
    best = next(iter(best_first(complete, metric, lower_is_better=lower_is_better)), None)
    for path in checkpoint_folders(folder):
        place: dict[str, Any] = {"step": step_of(path), "path": str(path)}
        try:
            checkpoint = open_checkpoint(path)
        except CheckpointError as error:
            yield place | {"state": str(error), "whole": False}
            continue
        manifest = checkpoint.manifest
        problem = None if quick else damage(checkpoint, manifest.files)
        yield place | {
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
        state = "being written now, or left behind by a killed run"
        yield {"step": int(path.name.removeprefix(".step-")), "path": str(path), "state": state, "whole": False}


def render_table(checkpoints: Sequence[dict[str, Any]]) -> str:
    """A table with a line for each checkpoint, however narrow the terminal is."""
    metric = next((checkpoint["metric"] for checkpoint in checkpoints if "metric" in checkpoint), "metric")
    rows = [("step", metric, "size", "saved", "state")]
    for checkpoint in checkpoints:
        value = checkpoint.get("value")
        written_at = time.localtime(checkpoint["written_at"]) if "written_at" in checkpoint else None
        rows.append(
            (
                f"{checkpoint['step']:,}",
                "" if value is None else f"{value:.4f}{' *' if checkpoint['best'] else ''}",
                f"{checkpoint['num_bytes'] / 1e9:.2f} GB" if "num_bytes" in checkpoint else "",
                time.strftime("%Y-%m-%d %H:%M", written_at) if written_at else "",
                checkpoint["state"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row[:-1], widths, strict=False)) for row in rows]
    table = [f"{line}  {row[-1]}" for line, row in zip(lines, rows, strict=True)]
    if any(checkpoint.get("best") for checkpoint in checkpoints):
        table.append("* the best of these by the dev metric")
    return "\n".join(table)


if __name__ == "__main__":
    run_piped(main)
