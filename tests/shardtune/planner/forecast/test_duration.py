"""Times are shown in units in which they have few digits."""

import pytest

from shardtune.planner.forecast.forecast import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0029, "2.9 ms"), (0.25, "0.25 s"), (2.314, "2.31 s"), (63.0, "63 s"), (150.0, "2.5 min"), (45000.0, "12.5 h")],
)
def test_a_time_has_the_largest_unit_of_which_it_is_at_least_two(seconds: float, text: str) -> None:
    assert duration(seconds) == text
