"""The date that chat templates write as today's: always the same one.

With another one on each day, prepared data would not have the tokens that the same recipe gives today, and a run would
be evaluated with other prompts than it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from shardtune.errors import DataError

CLOCK = "strftime_now"
"""The function by which templates ask for the time."""
ARGUMENT, DATE = "fixed_date", "2024-07-26"
"""The template argument that sets the date, and the one that Llama's templates write where they have no clock."""


@dataclass(frozen=True)
class _StoppedClock:
    """What transformers ask for the time, in the stead of the class datetime."""

    moment: datetime

    def now(self, zone: tzinfo | None = None) -> datetime:
        """The same moment, always."""
        return self.moment.replace(tzinfo=zone)


@contextmanager
def fixed_date(arguments: Mapping[str, Any]) -> Iterator[None]:
    """While it is open, templates write the date in these template arguments, or DATE, as today's.

    Raises DataError if the arguments name something else than a date.
    """
    # Its functions of templates cannot be given to transformers (5.23), which make texts of all arguments.
    from transformers.utils import chat_template_utils

    given = arguments.get(ARGUMENT, DATE)
    try:
        clock: Any = _StoppedClock(datetime.fromisoformat(str(given)))
    except ValueError:
        message = f"task.template_arguments: {ARGUMENT}: expected a date such as {DATE}, got {given!r}"
        raise DataError(message) from None
    module: Any = chat_template_utils
    running, module.datetime = module.datetime, clock
    try:
        yield
    finally:
        module.datetime = running


def date_note(template: Any, arguments: Mapping[str, Any]) -> str:
    """What the user has to know of the date that a template, or one of several, writes; "" if it writes none."""
    if CLOCK not in str(template):
        return ""
    return (
        f"the chat template writes today's date: it is always {arguments.get(ARGUMENT, DATE)} here, in training and in "
        f'predictions, whatever the day (task.template_arguments={{{ARGUMENT}: "2026-01-31"}} sets another)'
    )
