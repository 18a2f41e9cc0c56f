"""Fits the planner's fitted constants to the training part of the published throughput, and prints them.

    python -m benchmarks.planner.fit

The held-out rows are not used. One to three constants at a time are changed at random, by ever less, and the change is
kept if the mean error falls; an error counts as 30 % at most, so that rows that contradict their neighbors pull little.
"""

import math
import random
from dataclasses import replace
from typing import Any

from benchmarks.planner.published import SEED, throughput_rows
from benchmarks.planner.throughput import job_of
from shardtune.planner.constants import DEFAULTS, Constants
from shardtune.planner.schedule import step_time

START = {"ampere": 0.8, "hopper": 0.7, "attention": 0.8, "exponentials": 64.0, "short_k": 150.0, "exposed": 0.25}
"""The fitted constants, and values to begin with."""
ROUNDS = 400


def with_value(constants: Constants, name: str, value: float) -> Constants:
    """The constants with another value of this one."""
    if name in constants.sustained:
        return replace(constants, sustained={**constants.sustained, name: value})
    changes: dict[str, Any] = {name: value}
    return replace(constants, **changes)


def value_of(constants: Constants, name: str) -> float:
    """The value of a constant."""
    return constants.sustained[name] if name in constants.sustained else float(getattr(constants, name))


def main() -> None:
    rows = [(row, job_of(row)) for row in throughput_rows() if not row.is_held_out]

    def cost(constants: Constants) -> float:
        errors = (abs(math.log(step_time(job, constants).tokens_per_s / row.tokens_per_s_per_gpu)) for row, job in rows)
        return sum(min(error, 0.3) for error in errors) / len(rows)

    best, draw = DEFAULTS, random.Random(SEED)
    for name, value in START.items():
        best = with_value(best, name, value)
    least = cost(best)
    for width in (0.3, 0.1, 0.03, 0.01):
        for _ in range(ROUNDS):
            tried = best
            for name in draw.sample(list(START), draw.randint(1, 3)):
                tried = with_value(tried, name, value_of(tried, name) * math.exp(draw.gauss(0, width)))
            if (found := cost(tried)) < least:
                best, least = tried, found
    for name in START:
        print(f"{name:14} {value_of(best, name):.3g}")
    print(f"mean error of {len(rows)} rows: {least:.1%}")


if __name__ == "__main__":
    main()
