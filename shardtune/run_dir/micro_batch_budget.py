"""The number that `train.micro_batch_tokens: auto` stands for in a run, as its run directory keeps it.

Every start of the run takes it, for another number would cut the steps otherwise, and round their sums otherwise.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from shardtune.errors import CheckpointError
from shardtune.run_dir.files import write_atomically

KEPT_BUDGET = "micro_batch_tokens.json"


@dataclass(frozen=True)
class KeptBudget:
    """What a start leaves to the next ones."""

    tokens: int
    fits: bool
    """Whether it has been tried out."""
    too_many: int | None = None
    """The number before it, with which memory was short."""

    def __str__(self) -> str:
        because = f" (memory was short with {self.too_many})" if self.too_many is not None else ""
        return f"train.micro_batch_tokens: auto is {self.tokens}{because}"


def read_budget(run_dir: Path) -> KeptBudget | None:
    """None if no start has found it out yet. Raises CheckpointError if the file is not one of ours."""
    path = run_dir / KEPT_BUDGET
    try:
        return KeptBudget(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise CheckpointError(f"{path} is damaged; remove it, and the number is found out anew") from None


def keep_budget(run_dir: Path, budget: KeptBudget) -> None:
    """Leaves it to the next start."""
    write_atomically(run_dir / KEPT_BUDGET, json.dumps(asdict(budget)))
