"""Whether this process was asked to stop: by a signal, by RUN_DIR/stop, or by the clock.

While there is nothing to lose, in preparation and start-up, the wish ends the process where it stands. Later it is only
noted, for the ranks have to agree on where they heed it (trainer/between_steps/stop_checks.py), and save a checkpoint
first.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""SIGTERM is all that some schedulers send, USR1 and USR2 are what Slurm can be told to."""
POLL_S = 0.5
GRACE_S = 5.0
"""So long a wish that ends the process may go unheeded; torchrun and Slurm kill after 30 s."""


class StopAsked(BaseException):
    """A wish to stop that is heeded. No Exception: libraries that load models or read files pass over those."""


class Stop:
    """What this process knows of a wish to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Who asked, if anyone has."""
        self._at_once = True
        self._is_postponed = False
        self._heeded = threading.Event()
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
        self._heeded.set()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """A wish that comes meanwhile is heeded at the end: an import of torch that is left half done crashes."""
        self._is_postponed = True
        try:
            yield
        finally:
            self._is_postponed = False
        if self.reason is not None and self._at_once:
            self._heed(self.reason)

    def close(self) -> None:
        """Looks no more at file and clock."""
        self._closed.set()

    def handle(self, number: int, _: FrameType | None) -> None:
        """The handler of SIGNALS. Raises StopAsked as long as a wish ends the process."""
        self.reason = self.reason or self._seen or signal.Signals(number).name
        if self._at_once and not self._is_postponed:
            self._heed(self.reason)

    def end_when_stuck(self, signals: socket.socket, when_stuck: Callable[[StopAsked], object]) -> None:
        """Reads the numbers of this process's signals as they come, and does what is given when one goes unheeded.

        Python calls no handler while the main thread is in C++, where torch waits for a rank that may have ended.
        """
        while told := signals.recv(1):
            if told[0] in SIGNALS and not self._heeded.wait(GRACE_S):
                when_stuck(StopAsked(self.reason or self._seen or signal.Signals(told[0]).name))

    def _heed(self, reason: str) -> None:
        self._heeded.set()
        raise StopAsked(reason)

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
def signals_ask_to_stop(*, when_stuck: Callable[[StopAsked], object] | None = None) -> Iterator[Stop]:
    """While this lasts, SIGNALS are wishes to stop.

    `when_stuck` is called, in another thread, when one that ends the process has had no effect for GRACE_S.
    """
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        with _told_of_signals(stop, when_stuck) if when_stuck is not None else contextlib.nullcontext():
            yield stop
    finally:
        stop.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told_of_signals(stop: Stop, when_stuck: Callable[[StopAsked], object]) -> Iterator[None]:
    told, teller = socket.socketpair()
    teller.setblocking(False)
    before = signal.set_wakeup_fd(teller.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=stop.end_when_stuck, args=(told, when_stuck), name="stuck", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        teller.shutdown(socket.SHUT_WR)  # heard at once, also while a forked process holds a copy
        teller.close()
        thread.join(GRACE_S)
        told.close()


def _forget_parent() -> None:
    signal.set_wakeup_fd(-1)  # or what is said to a forked process would be heard as said to this one


os.register_at_fork(after_in_child=_forget_parent)
