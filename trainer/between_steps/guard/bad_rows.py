"""Which rows made a step's loss no finite number, written down where a person finds them.

Each row of the step is asked for its loss alone, without dropout and without a gradient.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.engine import Engine
from shardtune.trainer.tasks import Task
from shardtune.trainer.tasks.batch import Batch

BAD_ROWS = Path("logs") / "bad_rows.jsonl"
"""In a run directory: a line for each culprit."""


@dataclass(frozen=True)
class BadRowSearch:
    """Finds and writes down the culprits of a run's steps."""

    run_dir: Path
    ranks: Ranks
    alone: Callable[[int], Iterable[tuple[str | None, Batch]]]
    """A step's number -> this rank's share of its examples, as trainer/data/batches/steps.py has it."""

    def find(self, engine: Engine, task: Task, number: int) -> list[str]:
        """Collective: the places of the step's rows whose loss alone is no finite number, which are also written down.

        None of them, if it takes several rows, dropout or the gradient; all, if the model itself has no numbers left.
        """
        losses: list[tuple[str, float]] = []
        with engine.evaluating():
            for place, batch in self.alone(number):
                loss = float(task.loss_sum(engine.forward(batch), batch))
                if place is not None and not math.isfinite(loss):
                    losses.append((place, loss))
        culprits = dict(pair for pairs in self.ranks.gather(losses) for pair in pairs)
        with contextlib.suppress(OSError):  # a full disk ends no training, and whoever asks says the places too
            self._write(number, culprits)
        return list(culprits)

    def _write(self, number: int, culprits: Mapping[str, float]) -> None:
        if self.ranks.is_zero:
            with (self.run_dir / BAD_ROWS).open("a", encoding="utf-8") as file:
                for place, loss in culprits.items():
                    line = {"step": number + 1, "place": place, "loss": str(loss)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
