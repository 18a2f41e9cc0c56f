"""Whether this process was asked to stop, by RUN_DIR/stop or by SIGTERM, which is all that some schedulers send."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from trainer.config.run_dir import STOP

_signals: list[int] = []


def stop_requested(run_dir: Path) -> bool:
    """Whether this rank sees a wish to stop."""
    return bool(_signals) or (run_dir / STOP).exists()


@contextmanager
def sigterm_asks_to_stop() -> Iterator[None]:
    """While there is something to save: at any other time SIGTERM ends the process at once, as it does by default."""

    def note(number: int, _: FrameType | None) -> None:
        _signals.append(number)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _signals.clear()
