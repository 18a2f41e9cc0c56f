"""Whether this process was asked to stop: by a signal, by RUN_DIR/stop, or by the clock.

While there is nothing to lose, in preparation and start-up, the wish ends the process where it stands. Later it is only
noted, for the ranks have to agree on where they heed it (trainer/milestones.py), and save a checkpoint first.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM is all that some schedulers send, USR1 and USR2 are what Slurm can be told to."""
POLL_S = 0.5


class StopAsked(BaseException):
    """A wish to stop that is heeded. No Exception: libraries that load models or read files pass over those."""


class Stop:
    """What this process knows of a wish to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Who asked, if anyone has."""
        self._at_once = True
        self._seen: str | None = None
        self._closed = threading.Event()

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def watch(self, file: Path | None, minutes: float | None) -> None:
        """From now on the file, once it is there, and the clock ask too; the minutes count from here."""
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        threading.Thread(target=self._watch, args=(file, deadline), name="stop", daemon=True).start()

    def note_only(self) -> None:
        """From now on a wish does not end the process any more: whoever calls this looks for it."""
        self._at_once = False

    def close(self) -> None:
        """Looks no more at file and clock."""
        self._closed.set()

    def handle(self, number: int, _: FrameType | None) -> None:
        """The handler of SIGNALS. Raises StopAsked as long as a wish ends the process."""
        self.reason = self.reason or self._seen or signal.Signals(number).name
        if self._at_once:
            raise StopAsked(self.reason)

    def _watch(self, file: Path | None, deadline: float) -> None:
        while self._seen is None and not self._closed.wait(POLL_S):
            with contextlib.suppress(OSError):  # the file server is away; a later look will do
                if file is not None and file.exists():
                    self._seen = str(file)
            if time.monotonic() >= deadline:
                self._seen = "faults.stop_after_minutes"
        main_thread = threading.main_thread().ident
        if self._seen is not None and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGUSR2)  # by the one way that also ends what is being waited for


@contextmanager
def signals_ask_to_stop() -> Iterator[Stop]:
    """While this lasts, SIGNALS are wishes to stop."""
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        stop.close()
        for number, handler in before.items():
            signal.signal(number, handler)
