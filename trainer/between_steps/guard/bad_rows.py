"""Which rows made the loss of a step non-finite, listed in a file for the user.

The loss of each row of the step is computed alone, without dropout and without a gradient.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shardtune.json_lines import json_line
from shardtune.run_dir.files import open_in_place
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch

BAD_ROWS = Path("logs") / "bad_rows.jsonl"
"""In a run directory: one line for each bad row."""


@dataclass(frozen=True)
class BadRowSearch:
    """Finds and records the bad rows of a step."""

    run_dir: Path
    ranks: Ranks
    alone: Callable[[int], Iterable[tuple[str | None, Batch]]]
    """TrainingSteps.alone: the number of a step -> the examples of this rank, each with the place of its row."""

    def find(self, engine: Engine, task: Task, number: int) -> list[str]:
        """Collective: records and returns the places of the rows of this step whose own loss is non-finite.

        Empty if several rows together, dropout or the gradient are the cause; all rows if the weights are non-finite.
        """
        losses: list[tuple[str, float]] = []
        with engine.evaluating(averaged=False):
            for place, batch in self.alone(number):
                loss = float(task.loss_sum(engine.forward(batch), batch))
                if place is not None and not math.isfinite(loss):
                    losses.append((place, loss))
        bad_rows = dict(pair for pairs in self.ranks.gather(losses) for pair in pairs)
        with contextlib.suppress(OSError):  # a full disk ends no training, and the alert names rows too
            self._write(number, bad_rows)
        return list(bad_rows)

    def _write(self, number: int, bad_rows: Mapping[str, float]) -> None:
        if self.ranks.is_zero:
            with open_in_place(self.run_dir / BAD_ROWS, "a") as file:
                for place, loss in bad_rows.items():
                    line = {"step": number + 1, "place": place, "loss": str(loss)}
                    file.write(json_line(line))
