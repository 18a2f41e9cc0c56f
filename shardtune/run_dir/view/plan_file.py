"""RUN_DIR/plan.json: what was predicted of a run when it was last started, to be compared with what became of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shardtune.run_dir.files import write_atomically

PLAN = "plan.json"


def write_plan(run_dir: Path, plan: Mapping[str, Any]) -> None:
    """Writes what is predicted: `device`, `ranks`, `memory_bytes`, and, where they are known, `step_s`,
    `tokens_per_s` of all ranks and `run_s`. Raises OSError."""
    write_atomically(run_dir / PLAN, json.dumps(plan, indent=1))


def read_plan(run_dir: Path) -> dict[str, Any] | None:
    """What was predicted; None without a plan, or if the file is damaged."""
    try:
        plan = json.loads((run_dir / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return plan if isinstance(plan, dict) else None
