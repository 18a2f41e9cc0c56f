"""The date that chat templates write as today's: always the same one.

With another one on each day, prepared data would not have the tokens that the same recipe gives today, and a run would
be evaluated with other prompts than it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from shardtune.errors import DataError

CLOCK = "strftime_now"
"""The function by which templates ask for the time; also the template argument that sets its date."""
DATE = "2024-07-26"
"""The date that Llama's templates write where they do not know today's."""


def date_arguments(template: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments by which this template, or one of these templates, writes a fixed date; {} if it writes none.

    The date is the one in `arguments`, or DATE. Raises DataError if that is not a date.
    """
    if CLOCK not in str(template):
        return {}
    given = arguments.get(CLOCK, DATE)
    try:
        moment = datetime.fromisoformat(str(given))
    except ValueError:
        raise DataError(f"task.template_arguments: {CLOCK}: expected a date such as {DATE}, got {given!r}") from None
    return {CLOCK: moment.strftime}


def date_note(template: Any, arguments: Mapping[str, Any]) -> str:
    """What the user has to know of the date that this template writes; "" if it writes none."""
    if CLOCK not in str(template):
        return ""
    return (
        f"the chat template writes today's date: it is always {arguments.get(CLOCK, DATE)} here, in training and in "
        f'predictions, whatever the day (task.template_arguments={{{CLOCK}: "2026-01-31"}} sets another)'
    )
