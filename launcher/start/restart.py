"""Whether ranks that have failed are started anew, and when. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from shardtune.recipe.fault_policy import FaultsConfig

SAME_STEP = 3
"""Starts that end at one step: what fails there will fail there again."""
LONGEST_DELAY_S = 300.0


@dataclass(frozen=True)
class Failure:
    """How one start has ended."""

    step: int
    """The last step that was done, by this start or an earlier one."""
    is_mishap: bool
    """Whether a new start may well do better: it had done a step, or a rank was killed from outside."""
    is_amended: bool = False
    """Whether the next start will do otherwise: it begins at once, and the failure does not count."""


@dataclass(frozen=True)
class Restart:
    """A new start after so many seconds."""

    delay_s: float
    number: int
    """Of those that count; 0 if it does not."""


@dataclass(frozen=True)
class GiveUp:
    """No new start, and why not; an empty text if that needs no words."""

    reason: str


def next_start(failures: Sequence[Failure], config: FaultsConfig) -> Restart | GiveUp:
    """What follows on these failures of a run, the last one last."""
    if failures[-1].is_amended:
        return Restart(0.0, 0)
    failures = [its for its in failures if not its.is_amended]
    if config.max_restarts == 0 or not failures[-1].is_mishap:
        return GiveUp("")
    if len(failures) >= SAME_STEP and len({its.step for its in failures[-SAME_STEP:]}) == 1:
        return GiveUp(f"{SAME_STEP} starts have ended at step {failures[-1].step}: a new one would do the same")
    if len(failures) > config.max_restarts:
        return GiveUp(f"there were {config.max_restarts} new starts already (faults.max_restarts)")
    return Restart(min(config.restart_delay_s * 2 ** (len(failures) - 1), LONGEST_DELAY_S), len(failures))
