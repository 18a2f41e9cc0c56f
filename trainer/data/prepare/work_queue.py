"""A queue of work units shared by processes and machines: each unit is done once, and its result is a file.

There is no coordinator and no collective: all run the same program, and each takes units that are neither done nor
claimed. The finished units of a killed process stay for the others, or for the next start. A unit that is done twice
after all, such as when a machine that was given up comes back, gives the same file again.
"""

import contextlib
import errno
import gc
import hashlib
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Collection, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from shardtune.errors import DataError, ShardtuneError
from shardtune.processes import pid_scope, start_ticks
from shardtune.rows.row_faults import BadRowsError
from shardtune.run_dir.files import published
from shardtune.trainer.data.stored import from_bytes, to_bytes

BEAT_S, STALE_S, POLL_S = 5.0, 60.0, 0.1
"""How often a machine shows that it is alive, after how long without a sign of life it is given up, and how often the
others look. The clocks of machines need not agree: what counts is how long an observer has seen no change."""

RESULT = ".result"
"""The ending of the file of a unit's result."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""The errors of a file system that cannot be written to."""

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Called with a stage, the number of its finished units, and the number of all its units."""


class FinishedElsewhere(Exception):
    """The whole work was finished by another process."""


class WorkerKilled(DataError):
    """A worker process was killed in the middle of a unit; finished units are not affected."""


class WorkQueue:
    """One machine's part in the work, in a folder that all machines see."""

    def __init__(
        self,
        folder: Path,
        *,
        num_processes: int = 1,
        is_finished: Callable[[], bool] = lambda: False,
        machine: str = "",
        progress: Progress = lambda *_: None,
    ) -> None:
        """With one process the units are done in the calling one. `progress` counts the units of all machines."""
        self.folder = folder
        self.num_processes = num_processes
        self._is_finished = is_finished
        self._machine = machine or this_machine()
        self._progress = progress
        self._pid = os.getpid()
        self._token = f"{self._machine}.{self._pid}.{start_ticks(self._pid)}"
        self._seen: dict[str, tuple[float, float]] = {}
        """By token, the last sign of life, and when this process first saw it."""
        self._last_beat = float("-inf")
        for name in ("alive", "claims"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._beat()

    def map(self, stage: str, num_units: int, function: Callable[[int], T], classes: Collection[type] = ()) -> list[T]:
        """function(unit) for all units, shared with all processes that call this; the stage names the results' folder.

        `classes` are those of the objects in the results, of which the files restore no others.
        Raises FinishedElsewhere, or what a unit raised on this machine. A ShardtuneError of a worker process comes as a
        DataError with the same message, a BadRowsError as it is.
        """
        (self.folder / stage).mkdir(exist_ok=True)
        while missing := [unit for unit in range(num_units) if not self._result(stage, unit).is_file()]:
            self._beat()
            self._progress(stage, num_units - len(missing), num_units)
            if self._is_finished():
                raise FinishedElsewhere
            claimed = self._claimed(stage, missing)
            free = [unit for unit in missing if unit not in claimed]
            if not free:
                time.sleep(POLL_S)
            elif self.num_processes == 1:
                for unit in free:
                    self._try(stage, unit, function, classes)
                    self._beat()
                    self._report_progress(stage, num_units)
            else:
                self._fork(stage, free, num_units, function, classes)
        return [self._read(stage, unit, classes) for unit in range(num_units)]

    def leave(self, *, is_done: bool) -> None:
        """Signs off. The last one to leave removes the folder if the work is done, or cannot be done."""
        (self.folder / "alive" / self._token).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            others = [path.name for path in (self.folder / "alive").iterdir() if self._is_alive(path.name)]
            if is_done and not others:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _result(self, stage: str, unit: int) -> Path:
        return self.folder / stage / f"{unit:05}{RESULT}"

    def _read(self, stage: str, unit: int, classes: Collection[type]) -> Any:
        path = self._result(stage, unit)
        try:
            return from_bytes(path.read_bytes(), classes)
        except ValueError as error:
            raise DataError(
                f"{path} is damaged ({error}); delete {self.folder} and run again to prepare the data again"
            ) from error

    def _claim(self, stage: str, unit: int) -> Path:
        return self.folder / "claims" / f"{stage}-{unit:05}"

    def _try(self, stage: str, unit: int, function: Callable[[int], Any], classes: Collection[type]) -> None:
        """Does the unit if no other process has claimed it."""
        try:
            # Exclusive creation of a file is a lock on every file system, NFS included.
            file = os.open(self._claim(stage, unit), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return
        with os.fdopen(file, "w") as claim:
            claim.write(self._token)
        if not self._result(stage, unit).is_file():
            with published(self._result(stage, unit)) as path:
                path.write_bytes(to_bytes(function(unit), classes))

    def _claimed(self, stage: str, units: Collection[int]) -> set[int]:
        """The units that a live process is doing. Removes the claims of dead ones."""
        claimed = set()
        for unit in units:
            path = self._claim(stage, unit)
            try:
                token, claimed_at = path.read_text(), path.stat().st_mtime
            except FileNotFoundError:
                continue
            if token and token != self._token and self._is_alive(token):
                claimed.add(unit)
            elif token:
                path.unlink(missing_ok=True)
            elif time.time() - claimed_at < STALE_S:
                claimed.add(unit)  # it has just been created, and its token is about to be written
            else:
                path.unlink(missing_ok=True)
        return claimed

    def _beat(self) -> bool:
        """Shows that this process is alive if it is time to; returns whether it was."""
        if time.monotonic() - self._last_beat <= BEAT_S:
            return False
        (self.folder / "alive" / self._token).touch()
        self._last_beat = time.monotonic()
        return True

    def _is_alive(self, token: str) -> bool:
        machine, pid, ticks = token.rsplit(".", 2)
        if machine == this_machine():
            return str(start_ticks(int(pid))) == ticks
        try:
            beat = (self.folder / "alive" / token).stat().st_mtime
        except FileNotFoundError:
            return False
        if self._seen.get(token, (None,))[0] != beat:
            self._seen[token] = (beat, time.monotonic())
        return time.monotonic() - self._seen[token][1] < STALE_S

    def _report_progress(self, stage: str, num_units: int) -> None:
        done = sum(path.suffix == RESULT and path.name[0] != "." for path in (self.folder / stage).iterdir())
        self._progress(stage, done, num_units)

    def _fork(
        self,
        stage: str,
        units: Sequence[int],
        num_units: int,
        function: Callable[[int], Any],
        classes: Collection[type],
    ) -> None:
        """Has the units done by forked worker processes, which share the memory of what this process has loaded."""
        # Not concurrent.futures.ProcessPoolExecutor, tried in Python 3.11 with a fork context: its workers outlive a
        # parent that is killed (two of them still waited for work after 9 minutes); an interrupt after 1 s of units of
        # 8 s is raised after 16 s, and shutdown(wait=False) only defers the wait to the exit of the interpreter; a
        # worker that was killed and one that exited are the same BrokenProcessPool, without an exit code; and functions
        # have to be picklable, which closures over rows and tokenizers are not.
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        processes = [
            context.Process(target=self._worker, args=(stage, units, function, classes, sender), daemon=True)
            for _ in range(min(self.num_processes, len(units)))
        ]
        gc.collect()
        gc.freeze()  # otherwise the collector would write to all pages that the processes share
        try:
            for process in processes:
                process.start()
            sender.close()
            while any(process.is_alive() for process in processes):
                if self._beat():
                    self._report_progress(stage, num_units)
                processes[0].join(POLL_S if processes[0].is_alive() else 0)
                if not processes[0].is_alive():
                    time.sleep(POLL_S / 10)
                _raise_received(receiver)
                _refuse_dead(processes)
            _raise_received(receiver)
            _refuse_dead(processes)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
            receiver.close()
            gc.unfreeze()

    def _worker(
        self,
        stage: str,
        units: Sequence[int],
        function: Callable[[int], Any],
        classes: Collection[type],
        errors: Connection,
    ) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all processes; only the parent reports it
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core already
        try:
            for unit in units:
                if os.getppid() != self._pid:
                    return
                self._try(stage, unit, function, classes)
        except BadRowsError as error:
            errors.send(error)
        except ShardtuneError as error:
            errors.send(DataError(str(error)))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            errors.send(error)


def _raise_received(errors: Connection) -> None:
    with contextlib.suppress(EOFError):
        if errors.poll():
            raise errors.recv()


def _refuse_dead(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.exitcode == -signal.SIGKILL:
            raise WorkerKilled(
                "a worker process that prepared the data was killed; if memory was short (see dmesg), lower "
                "data.prepare_processes. Run again: preparing resumes where it stopped"
            )
        if process.exitcode:
            raise RuntimeError(f"a worker process that prepared the data exited with {process.exitcode}; see above")


def this_machine() -> str:
    """A name for the scope in which process ids are unique: this machine, or this container."""
    return hashlib.sha256(pid_scope().encode()).hexdigest()[:12]
