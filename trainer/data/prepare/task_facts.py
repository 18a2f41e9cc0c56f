"""What a task has to know of all rows before any is encoded, found out in passes over them, a piece at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.trainer.tasks.task import Survey, Task

Observations = Mapping[str, Sequence[Any]]
"""What was seen in a pass, by split, in the order of the rows."""


def survey(task: type[Task], options: Any, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The facts of these rows. Raises DataError with every fault that was found (the first ones in full)."""

    def look(its: Survey, faults: Faults) -> Observations:
        return {split: [its.look(split, rows, faults)] for split, rows in splits.items()}

    its, faults = task.survey(options), Faults()
    run_survey(its, faults, look)
    faults.raise_if_any()
    return its.facts


def run_survey(survey: Survey, faults: Faults, look: Callable[[Survey, Faults], Observations]) -> None:
    """Goes on, pass after pass, until the survey has learned all that there is; adds what is wrong with single rows.

    Raises DataError for what is wrong with the rows as a whole.
    """
    while survey.learn(look(survey, faults), faults):
        pass
