"""What a task has to know about all rows before any is encoded, found out in passes over them, a piece at a time."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.trainer.tasks.task import Survey, Task

Observations = Mapping[str, Sequence[Any]]
"""What a pass has observed, by split, in the order of the rows."""


def survey(task: type[Task], options: Any, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """The facts about these rows. Raises DataError with every fault that was found (the first ones in full)."""

    def observe(survey: Survey, faults: Faults) -> Observations:
        return {split: [survey.observe(split, rows, faults)] for split, rows in splits.items()}

    task_survey, faults = task.survey(options), Faults()
    run_survey(task_survey, faults, observe)
    faults.raise_if_any()
    return task_survey.facts


def run_survey(survey: Survey, faults: Faults, observe: Callable[[Survey, Faults], Observations]) -> None:
    """Calls `observe` for pass after pass until the survey needs no more; adds the faults of single rows.

    Raises DataError for what is wrong with the rows as a whole.
    """
    while survey.conclude(observe(survey, faults), faults):
        pass
