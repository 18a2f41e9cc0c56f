"""Ways to make a training stop, or something else happen, after some of its steps; for `train(…, before=…)`."""

from collections.abc import Callable, Mapping
from itertools import count

from shardtune.trainer.between_steps.stop_checks import StopChecks


def stop_after(num_steps: int) -> Callable[[], None]:
    """Asks this process's training to stop after so many of its steps."""

    def before() -> None:
        asked = count(1)
        StopChecks.requested = lambda self: next(asked) >= num_steps  # type: ignore[method-assign]

    return before


def at_steps(deeds: Mapping[int, Callable[[], object]]) -> Callable[[], None]:
    """Does these deeds while the step of that number is done, counted from this start."""

    def before() -> None:
        asked = count(1)

        def requested(self: StopChecks) -> bool:
            if (deed := deeds.get(next(asked))) is not None:
                deed()
            return False

        StopChecks.requested = requested  # type: ignore[method-assign]

    return before
