"""The files of a run directory: their names, and how to read and write them."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from shardtune.json_lines import complete_lines

CONFIG, RECIPE, RESULTS, METRICS, STOP = "config.yaml", "recipe.yaml", "results.json", "metrics.jsonl", "stop"
LEASE = "lease.json"
"""The start that may write the directory (shardtune/run_dir/lease.py)."""
DATA = "data_fingerprint"
"""The fingerprint of the prepared data that the run began on (trainer/data/prepare/prepare.py)."""


CHECKPOINTS, EXPORT = "checkpoints", "export"
MODEL = "model"
"""The trained model's config, generation config and tokenizer; together with the weights of a checkpoint, a complete
model."""
FORKED_FROM = "forked_from.json"
"""In a run directory that was forked from a checkpoint of another one: which one, and how the recipes differ."""
FACTS = "facts.json"
"""What the task derived from the training data, such as label names; predict needs it too."""


def absolute(path: Path) -> Path:
    """The absolute path of a run directory; one name for one directory, also if it was given with `..`."""
    return path.resolve() if ".." in path.parts else path.absolute()


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events in metrics.jsonl; an incomplete last line is skipped."""
    path = run_dir / METRICS
    return [json.loads(line) for line in complete_lines(path)] if path.exists() else []


def already_finished(run_dir: Path) -> str:
    """What to say to a command that would train or queue a run whose results exist."""
    return f"{run_dir} is already finished ({RESULTS} exists); to train it again, give another --run-dir or train.seed"


def write_atomically(path: Path, text: str) -> None:
    """Write the file so that readers find either the old or the new text as a whole, even after a power failure."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def failure_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank reports why it failed: JSON with rank, host, time (seconds since the epoch), exit code and text."""
    return run_dir / "logs" / f"rank-{rank}.failure.json"


def stacks_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank without progress writes the stack traces of its threads."""
    return run_dir / "logs" / f"rank-{rank}.stacks.txt"


def alive_path(run_dir: Path, rank: int | str) -> Path:
    """The file that a rank touches while it makes progress."""
    return run_dir / "logs" / f"rank-{rank}.alive"
