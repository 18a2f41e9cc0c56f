"""The number that `train.micro_batch_tokens: auto` stands for in a run, as kept in its run directory.

Every start of the run uses it, because another number would form different micro-batches and round their sums
differently.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import write_atomically

KEPT_BUDGET = "micro_batch_tokens.json"


@dataclass(frozen=True)
class KeptBudget:
    """What one start leaves to the next."""

    tokens: int
    fits: bool
    """Whether the number has been verified."""
    too_many: int | None = None
    """The previous number, with which memory ran out."""

    def __str__(self) -> str:
        because = f" (memory ran out with {self.too_many})" if self.too_many is not None else ""
        return f"train.micro_batch_tokens: auto is {self.tokens}{because}"


def read_budget(run_dir: Path) -> KeptBudget | None:
    """Return the kept number, or None if no start has determined it yet. Raises CheckpointError if the file is
    damaged."""
    path = run_dir / KEPT_BUDGET
    try:
        return KeptBudget(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is damaged; remove it, and the number is determined again") from None


def keep_budget(run_dir: Path, budget: KeptBudget) -> None:
    """Write the number for the next start."""
    write_atomically(run_dir / KEPT_BUDGET, json.dumps(asdict(budget)))
