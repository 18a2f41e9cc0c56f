"""Long work between steps: shown while it lasts, and not counted as training time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shardtune.trainer.reporting.meter import Meter
from shardtune.trainer.reporting.reporter import Reporter


@dataclass(frozen=True)
class Phases:
    """Calling it with a name gives the context of a phase."""

    reporter: Reporter
    meter: Meter

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.reporter.report("phase", name=name)
        try:
            with self.meter.paused():
                yield
        finally:
            self.reporter.report("phase", name=None)
