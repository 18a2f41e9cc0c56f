"""The files of a run directory: their names, and how they are read and written."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

CONFIG, RECIPE, RESULTS, METRICS, STOP = "config.yaml", "recipe.yaml", "results.json", "metrics.jsonl", "stop"
LEASE = "lease.json"
"""Names the start that may write the directory (trainer/distributed/lease.py)."""
DATA = "data_fingerprint"
"""Names the prepared data that the run began on (trainer/data/prepare/prepare.py)."""


CHECKPOINTS, EXPORT = "checkpoints", "export"
MODEL = "model"
"""The trained model's config, generation config and tokenizer: with a checkpoint's weights, a whole model."""
FORKED_FROM = "forked_from.json"
"""In a run directory that begins from another one's checkpoint: which one, and what its recipe says otherwise."""
FACTS = "facts.json"
"""What the task had to know of the training data, such as its label names; predict needs it again."""


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """The events of metrics.jsonl; a last line that is still being written is left out."""
    path = run_dir / METRICS
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def already_finished(run_dir: Path) -> str:
    """What to say to a command that would train or queue a run whose results exist."""
    return f"{run_dir} is already finished ({RESULTS} exists); to train it again, give another --run-dir or train.seed"


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads the path finds the old text or the new one, whole, also after a power cut."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def failure_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank says what it ended of: JSON with rank, host, time (seconds since the epoch), exit code and text."""
    return run_dir / "logs" / f"rank-{rank}.failure.json"


def stacks_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank that has made no progress says where each of its threads stands."""
    return run_dir / "logs" / f"rank-{rank}.stacks.txt"


def alive_path(run_dir: Path, rank: int | str) -> Path:
    """What a rank touches as long as it makes progress."""
    return run_dir / "logs" / f"rank-{rank}.alive"
