"""A rank that makes no progress writes the stacks of its threads and exits, so that a scheduler can restart the job.

faulthandler's timer is not Python's: it also expires while a thread is stuck in a collective, or never releases the
interpreter. The other ranks of a start, whose timers may have begun later, write their stacks as soon as one has.
Each looks at those of log2(ranks) others only, and is looked at itself once it has written its own: so all learn of a
hang within log2(ranks) looks, and a file server of 512 waiting ranks is asked 4,608 times a second, not 262,144.
"""

import contextlib
import faulthandler
import os
import threading
import time
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shardtune.run_dir.files import alive_path, open_in_place, stacks_path
from shardtune.trainer.distributed.tree import num_rounds

TOUCH_S, FOLLOWED_TOUCH_S = 10.0, 1.0
"""Shortest time between two touches of the file by which others see the heartbeat, and that where a launcher follows
it: hundreds of ranks share a file server."""
LOOK_S = 1.0
"""Seconds between two looks at the other ranks' stacks, by a rank that waits: torchrun gives the ranks 30 seconds after
the first has ended."""


class _Heartbeat:
    """A file that is touched while there is progress.

    A later start replaces it by its own: an earlier start that is believed dead but alive then touches a file that is
    in no folder any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        self._file = draft.open("x")
        draft.replace(path)

    def touch(self) -> None:
        os.utime(self._file.fileno())

    @property
    def began(self) -> float:
        """When the file was last touched, by the clock of the file server."""
        return os.fstat(self._file.fileno()).st_mtime

    def is_replaced(self) -> bool:
        """Whether a later start has replaced the file."""
        try:
            return not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat())
        except OSError:
            return True

    def close(self) -> None:
        self._file.close()


class _Watch:
    """The only watch of this process, because faulthandler has one timer."""

    def __init__(self, stacks: IO[str], heartbeat: _Heartbeat, hang_s: float) -> None:
        self._stacks = stacks
        self._heartbeat = heartbeat
        self._hang_s = hang_s
        self._touched = float("-inf")
        self._beaten = time.monotonic()

    def beat(self) -> None:
        faulthandler.dump_traceback_later(self._hang_s, file=self._stacks, exit=True)
        self._beaten = now = time.monotonic()
        if now - self._touched > _touch_s:
            self._touched = now
            with contextlib.suppress(OSError):  # a full disk is reported by the checkpoints
                self._heartbeat.touch()

    @property
    def is_waiting(self) -> bool:
        """Whether there was no progress for so long that another rank may hang; until then the disk is not read."""
        return time.monotonic() - self._beaten > self._hang_s / 10


class _Peers:
    """The stacks that other ranks of this start have written, as far as this rank looks at them."""

    def __init__(self, paths: Sequence[Path], began: float) -> None:
        self._paths = paths
        self._began = began

    def hang(self) -> bool:
        """Whether one of them has written its stacks."""
        for path in self._paths:
            with contextlib.suppress(OSError):
                if (status := path.stat()).st_size and status.st_mtime >= self._began:
                    return True
        return False

    def hang_soon(self) -> bool:
        """The same after as many looks as it takes until all have heard of a hang."""
        for _ in self._paths:
            if self.hang():
                return True
            time.sleep(LOOK_S)
        return self.hang()


_watch: _Watch | None = None
_touch_s = TOUCH_S


def follow_heartbeats(*, is_followed: bool) -> None:
    """Tells this process whether a launcher follows its heartbeats, for the watches to come."""
    global _touch_s
    _touch_s = FOLLOWED_TOUCH_S if is_followed else TOUCH_S


def peers_of(rank: int, num_ranks: int) -> list[int]:
    """The ranks at which a rank looks: 1, 2, 4, … ranks further on."""
    return [(rank + (1 << number)) % num_ranks for number in range(num_rounds(num_ranks))]


def beat() -> None:
    """Reports progress of this process; takes some 50 µs. No effect while nothing is watched."""
    if _watch is not None:
        _watch.beat()


@contextmanager
def watching(
    run_dir: Path, rank: int, hang_s: float | None, *, num_ranks: int = 1, joining: bool = False
) -> Iterator[None]:
    """Requires a beat at least every hang_s seconds while this lasts; 0 and None watch nothing.

    `num_ranks` are those of this start, at whose hangs this rank looks too.
    `joining`: the run directory may still belong to another start, whose files are left untouched.
    """
    global _watch
    if not hang_s:
        yield
        return
    ending = "-joining" if joining else ""
    name = f"{rank}{ending}"
    path = stacks_path(run_dir, name)
    with open_in_place(path, "a") as stacks:  # opened now: a process that hangs may have no descriptor left
        heartbeat = _Heartbeat(alive_path(run_dir, name))
        looked_at = [stacks_path(run_dir, f"{peer}{ending}") for peer in peers_of(rank, num_ranks)]
        peers = _Peers(looked_at, heartbeat.began)
        _watch = watch = _Watch(stacks, heartbeat, hang_s)
        is_over = threading.Event()
        _watch.beat()
        looking = threading.Thread(target=_look, args=(watch, peers, stacks, is_over), name="watchdog", daemon=True)
        looking.start()
        try:
            yield
        except BaseException:
            # A rank connected to the one that hangs fails as soon as that one exits, and torchrun ends the others.
            if peers.hang_soon() if watch.is_waiting else peers.hang():
                stacks.write(traceback.format_exc())
                stacks.flush()
                faulthandler.dump_traceback(stacks)
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            _watch = None
            is_over.set()
            looking.join()
            if not heartbeat.is_replaced():
                if os.fstat(stacks.fileno()).st_size == 0:
                    path.unlink(missing_ok=True)
                if joining:
                    alive_path(run_dir, name).unlink(missing_ok=True)
            heartbeat.close()


def _look(watch: _Watch, peers: _Peers, stacks: IO[str], is_over: threading.Event) -> None:
    """Writes the stacks of this process once, if it waits and another rank has written that it hangs."""
    while not is_over.wait(LOOK_S):
        if watch.is_waiting and peers.hang():
            faulthandler.dump_traceback(stacks)
            return
