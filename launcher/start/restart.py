"""Whether ranks that have failed are restarted, and when: one policy for a workstation and for a Slurm job. Pure.

What counts are the failures since the run last made lasting progress, which is a newer checkpoint: a run of weeks may
fail more often than faults.max_restarts, and one that fails without a new checkpoint still comes to an end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shardtune.recipe.sections.fault_policy import FaultsConfig

SAME_STEP = 3
"""After this many starts that end at the same step there is no restart: the next one would fail there as well."""
LONGEST_DELAY_S = 300.0


@dataclass(frozen=True)
class Failure:
    """How one start ended."""

    step: int
    """The last step that was done, by this start or an earlier one."""
    is_mishap: bool
    """Whether a restart may succeed: the start had done a step, or a rank was killed from outside."""
    is_amended: bool = False
    """Whether the next start will do something differently: it follows at once, and the failure does not count."""
    saved: int = 0
    """The step of the newest checkpoint that was there when the start ended; 0 if there was none."""


@dataclass(frozen=True)
class Restart:
    """A restart after a delay."""

    delay_s: float
    number: int
    """The restart's number among those that count; 0 if it does not count."""


@dataclass(frozen=True)
class GiveUp:
    """No restart, and the reason; an empty reason if nothing needs to be said."""

    reason: str


def next_start(failures: Sequence[Failure], config: FaultsConfig) -> Restart | GiveUp:
    """The consequence of these failures of a run, the last one last."""
    if failures[-1].is_amended:
        return Restart(0.0, 0)
    failures = [failure for failure in failures if not failure.is_amended]
    if config.max_restarts == 0 or not failures[-1].is_mishap:
        return GiveUp("")
    failures = _since_progress(failures)
    if len(failures) >= SAME_STEP and len({failure.step for failure in failures[-SAME_STEP:]}) == 1:
        return GiveUp(f"no restart: {SAME_STEP} starts in a row ended at step {failures[-1].step}")
    if len(failures) > config.max_restarts:
        return GiveUp(
            f"no restart: all {config.max_restarts} restarts since the checkpoint of step {failures[-1].saved} are "
            "used up (faults.max_restarts)"
            if failures[-1].saved
            else f"no restart: all {config.max_restarts} restarts are used up (faults.max_restarts)"
        )
    return Restart(min(config.restart_delay_s * 2 ** (len(failures) - 1), LONGEST_DELAY_S), len(failures))


def _since_progress(failures: Sequence[Failure]) -> Sequence[Failure]:
    """The failures from the first one on that found the newest checkpoint that any of them found."""
    # The highest, not the last: a run whose newest checkpoint is damaged and written again makes no progress.
    newest = max(failure.saved for failure in failures)
    return failures[next(at for at, failure in enumerate(failures) if failure.saved == newest) :]
