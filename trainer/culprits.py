"""Which rows made a step's loss no finite number, written down where a person finds them.

Each row of the step is asked for its loss alone, without dropout and without a gradient.
"""

import contextlib
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trainer.data.batch import Batch
from trainer.engine import Engine
from trainer.ranks import Ranks
from trainer.tasks import Task

BAD_ROWS = Path("logs") / "bad_rows.jsonl"
"""In a run directory: a line for each culprit."""


@dataclass(frozen=True)
class Culprits:
    """Finds and writes down the culprits of a run's steps."""

    run_dir: Path
    ranks: Ranks
    rows_alone: Callable[[int], Iterable[tuple[int | None, Batch]]]
    """A step's number -> this rank's share of its rows, as trainer/steps.py has it."""
    place: Callable[[int], str]
    """A row's number -> where the user wrote it."""

    def find(self, engine: Engine, task: Task, number: int) -> list[str]:
        """Collective: the places of the step's rows whose loss alone is no finite number, which are also written down.

        None of them, if it takes several rows, dropout or the gradient; all, if the model itself has no numbers left.
        """
        losses: list[tuple[int, float]] = []
        with engine.evaluating():
            for row, batch in self.rows_alone(number):
                loss = float(task.loss_sum(engine.forward(batch), batch))
                if row is not None:
                    losses.append((row, loss))
        everyones = [pair for pairs in self.ranks.gather(losses) for pair in pairs]
        culprits = [(row, loss) for row, loss in dict(everyones).items() if not math.isfinite(loss)]
        places = [self.place(row) for row, _ in culprits]
        with contextlib.suppress(OSError):  # a full disk ends no training, and whoever asks says the places too
            self._write(number, culprits, places)
        return places

    def _write(self, number: int, culprits: list[tuple[int, float]], places: list[str]) -> None:
        if self.ranks.is_zero:
            with (self.run_dir / BAD_ROWS).open("a", encoding="utf-8") as file:
                for (row, loss), place in zip(culprits, places, strict=True):
                    line = {"step": number + 1, "row": row, "place": place, "loss": str(loss)}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
