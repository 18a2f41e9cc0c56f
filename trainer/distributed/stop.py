"""Whether this process was asked to stop: by a signal, by RUN_DIR/stop, or by the clock.

While there is nothing to lose, during preparation and start-up, a stop request ends the process where it stands. Later
it is only noted, because the ranks have to agree on the step to stop after (trainer/between_steps/stop_checks.py), and
save a checkpoint first.
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

from shardtune.run_dir.stop_file import read_stop_request

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Some schedulers send SIGTERM only; USR1 and USR2 are what Slurm can be told to send."""
POLL_S = 0.5
GRACE_S = 5.0
"""How long a stop request that should end the process may have no effect; torchrun and Slurm kill after 30 s."""


class StopAsked(BaseException):
    """A stop request that takes effect. Not an Exception: libraries that load models or read files swallow those."""


class Stop:
    """What this process knows of a stop request."""

    def __init__(self) -> None:
        self.reason: str | None = None
        """Who requested the stop, or None."""
        self._at_once = True
        self._is_postponed = False
        self._took_effect = threading.Event()
        self._seen: str | None = None
        self._closed = threading.Event()

    @property
    def requested(self) -> bool:
        return self.reason is not None

    def watch(self, file: Path | None, minutes: float | None, *, start: str | None = None) -> None:
        """Watches from now on for the file to appear and for the minutes to pass; either requests a stop.

        A file that means another start than the one with this token is ignored.
        """
        deadline = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        threading.Thread(target=self._watch, args=(file, deadline, start), name="stop", daemon=True).start()

    def note_only(self) -> None:
        """From now on a stop request no longer ends the process: the caller checks `requested`."""
        self._at_once = False
        self._took_effect.set()

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Delays a stop request until the end of the block: an interrupted import of torch crashes."""
        self._is_postponed = True
        try:
            yield
        finally:
            self._is_postponed = False
        if self.reason is not None and self._at_once:
            self._take_effect(self.reason)

    def close(self) -> None:
        """Stops watching the file and the clock."""
        self._closed.set()

    def handle(self, number: int, _: FrameType | None) -> None:
        """Handles SIGNALS. Raises StopAsked as long as a stop request ends the process."""
        self.reason = self.reason or self._seen or signal.Signals(number).name
        if self._at_once and not self._is_postponed:
            self._take_effect(self.reason)

    def end_when_stuck(self, signals: socket.socket, when_stuck: Callable[[StopAsked], object]) -> None:
        """Reads the numbers of this process's signals as they arrive, and calls `when_stuck` if one has no effect.

        Python calls no handler while the main thread is in C++, where torch waits for a rank that may have ended.
        """
        while received := signals.recv(1):
            if received[0] in SIGNALS and not self._took_effect.wait(GRACE_S):
                when_stuck(StopAsked(self.reason or self._seen or signal.Signals(received[0]).name))

    def _take_effect(self, reason: str) -> None:
        self._took_effect.set()
        raise StopAsked(reason)

    def _watch(self, file: Path | None, deadline: float, start: str | None) -> None:
        while self._seen is None and not self._closed.wait(POLL_S):
            with contextlib.suppress(OSError):  # the file server is away; a later look is enough
                request = read_stop_request(file) if file is not None else None
                if request is not None and request.means(start):
                    self._seen = request.by
            if time.monotonic() >= deadline:
                self._seen = "faults.stop_after_minutes"
        main_thread = threading.main_thread().ident
        if self._seen is not None and main_thread is not None:
            signal.pthread_kill(main_thread, signal.SIGUSR2)  # the one way that also interrupts a wait


@contextmanager
def signals_ask_to_stop(*, when_stuck: Callable[[StopAsked], object] | None = None) -> Iterator[Stop]:
    """Turns SIGNALS into stop requests while this lasts.

    `when_stuck` is called, in another thread, when a request that should end the process had no effect for GRACE_S.
    """
    stop = Stop()
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        with _signals_by_socket(stop, when_stuck) if when_stuck is not None else contextlib.nullcontext():
            yield stop
    finally:
        stop.close()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _signals_by_socket(stop: Stop, when_stuck: Callable[[StopAsked], object]) -> Iterator[None]:
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=stop.end_when_stuck, args=(receiver, when_stuck), name="stuck", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sender.shutdown(socket.SHUT_WR)  # received at once, also while a forked process holds a copy
        sender.close()
        thread.join(GRACE_S)
        receiver.close()


def _forget_parent() -> None:
    signal.set_wakeup_fd(-1)  # or a signal to the forked process would be received as one to its parent


os.register_at_fork(after_in_child=_forget_parent)
