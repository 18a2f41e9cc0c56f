"""Units of work that processes, also of several machines, do together: each unit once, and what it gives is a file.

Nobody is in charge and nobody waits in a collective: all run the same program, and each takes the units that are
neither done nor claimed. Whoever is killed leaves its finished units to the others, or to the next start. A unit that
is done twice after all, as when a machine that was given up comes back, is the same file once more.
"""

import contextlib
import errno
import gc
import hashlib
import multiprocessing
import os
import pickle
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from shardtune.errors import DataError, ShardtuneError
from shardtune.processes import pid_scope, start_ticks
from shardtune.rows.row_faults import BadRowsError

BEAT_S, STALE_S, POLL_S = 5.0, 60.0, 0.1
"""A machine says so often that it is alive, and is given up when it has not for so long. The clocks of machines need
not agree: what counts is how long one has seen nothing change."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
"""What a file system answers that takes no more files."""

T = TypeVar("T")
Progress = Callable[[str, int, int], None]
"""Is told of a stage, how many of its units are done, and how many there are."""


class FinishedElsewhere(Exception):
    """The whole work has come to its end elsewhere."""


class WorkerKilled(DataError):
    """A process was killed in the middle of a unit; the others' units are as good as they were."""


class WorkQueue:
    """One machine's part in the work in a folder that all machines see."""

    def __init__(
        self,
        folder: Path,
        *,
        num_processes: int = 1,
        is_over: Callable[[], bool] = lambda: False,
        machine: str = "",
        progress: Progress = lambda *_: None,
    ) -> None:
        """With one process the units are done in this one. `progress` is told how far a stage is, whoever does it."""
        self.folder = folder
        self.num_processes = num_processes
        self._is_over = is_over
        self._machine = machine or this_machine()
        self._progress = progress
        self._pid = os.getpid()
        self._token = f"{self._machine}.{self._pid}.{start_ticks(self._pid)}"
        self._seen: dict[str, tuple[float, float]] = {}
        """Of each other machine, its last sign of life, and when we have seen it first."""
        self._last_beat = float("-inf")
        for name in ("alive", "claims"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._beat()

    def map(self, stage: str, num_units: int, function: Callable[[int], T]) -> list[T]:
        """function(unit) of all units, done by whoever is there; the stage names them in the folder.

        Raises FinishedElsewhere, or what a unit raised here; of a ShardtuneError that is no BadRowsError a DataError of
        its words.
        """
        (self.folder / stage).mkdir(exist_ok=True)
        while missing := [unit for unit in range(num_units) if not self._result(stage, unit).is_file()]:
            self._beat()
            self._progress(stage, num_units - len(missing), num_units)
            if self._is_over():
                raise FinishedElsewhere
            claimed = self._claimed(stage, missing)
            free = [unit for unit in missing if unit not in claimed]
            if not free:
                time.sleep(POLL_S)
            elif self.num_processes == 1:
                for unit in free:
                    self._try(stage, unit, function)
                    self._beat()
                    self._tell(stage, num_units)
            else:
                self._fork(stage, free, num_units, function)
        return [pickle.loads(self._result(stage, unit).read_bytes()) for unit in range(num_units)]

    def leave(self, *, is_done: bool) -> None:
        """Says good-bye; the last one to leave work that is done, or that cannot be, clears it away."""
        (self.folder / "alive" / self._token).unlink(missing_ok=True)
        with contextlib.suppress(FileNotFoundError):
            others = [path.name for path in (self.folder / "alive").iterdir() if self._is_alive(path.name)]
            if is_done and not others:
                shutil.rmtree(self.folder, ignore_errors=True)

    def _result(self, stage: str, unit: int) -> Path:
        return self.folder / stage / f"{unit:05}.pickle"

    def _claim(self, stage: str, unit: int) -> Path:
        return self.folder / "claims" / f"{stage}-{unit:05}"

    def _try(self, stage: str, unit: int, function: Callable[[int], Any]) -> None:
        """Does the unit if nobody has claimed it."""
        try:
            # A file that must not be there yet is a lock on every file system, NFS included.
            file = os.open(self._claim(stage, unit), os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return
        with os.fdopen(file, "w") as claim:
            claim.write(self._token)
        if not self._result(stage, unit).is_file():
            with published(self._result(stage, unit)) as path:
                path.write_bytes(pickle.dumps(function(unit), protocol=pickle.HIGHEST_PROTOCOL))

    def _claimed(self, stage: str, units: Collection[int]) -> set[int]:
        """Those of the units that somebody who is alive is doing; other claims are dropped."""
        claimed = set()
        for unit in units:
            path = self._claim(stage, unit)
            try:
                token, made = path.read_text(), path.stat().st_mtime
            except FileNotFoundError:
                continue
            if token and token != self._token and self._is_alive(token):
                claimed.add(unit)
            elif token:
                path.unlink(missing_ok=True)
            elif time.time() - made < STALE_S:
                claimed.add(unit)  # it has just been made, and its name is about to be written
            else:
                path.unlink(missing_ok=True)
        return claimed

    def _beat(self) -> bool:
        """Shows that we are alive, if it is time to; whether it was."""
        if time.monotonic() - self._last_beat <= BEAT_S:
            return False
        (self.folder / "alive" / self._token).touch()
        self._last_beat = time.monotonic()
        return True

    def _is_alive(self, token: str) -> bool:
        machine, pid, its_birth = token.rsplit(".", 2)
        if machine == this_machine():
            return str(start_ticks(int(pid))) == its_birth
        try:
            beat = (self.folder / "alive" / token).stat().st_mtime
        except FileNotFoundError:
            return False
        if self._seen.get(token, (None,))[0] != beat:
            self._seen[token] = (beat, time.monotonic())
        return time.monotonic() - self._seen[token][1] < STALE_S

    def _tell(self, stage: str, num_units: int) -> None:
        done = sum(path.suffix == ".pickle" and path.name[0] != "." for path in (self.folder / stage).iterdir())
        self._progress(stage, done, num_units)

    def _fork(self, stage: str, units: Sequence[int], num_units: int, function: Callable[[int], Any]) -> None:
        """Has the units done by processes that begin with all that this one has loaded, and share its memory."""
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe(duplex=False)
        processes = [
            context.Process(target=self._worker, args=(stage, units, function, theirs), daemon=True)
            for _ in range(min(self.num_processes, len(units)))
        ]
        gc.collect()
        gc.freeze()  # or the collector would write to all pages that the processes share
        try:
            for process in processes:
                process.start()
            theirs.close()
            while any(process.is_alive() for process in processes):
                if self._beat():
                    self._tell(stage, num_units)
                processes[0].join(POLL_S if processes[0].is_alive() else 0)
                if not processes[0].is_alive():
                    time.sleep(POLL_S / 10)
                _raise_what_came(ours)
                _refuse_dead(processes)
            _raise_what_came(ours)
            _refuse_dead(processes)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()
            ours.close()
            gc.unfreeze()

    def _worker(self, stage: str, units: Sequence[int], function: Callable[[int], Any], errors: Connection) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches all; only the parent has something to say
        os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are as many as the cores already
        try:
            for unit in units:
                if os.getppid() != self._pid:
                    return
                self._try(stage, unit, function)
        except BadRowsError as error:
            errors.send(error)
        except ShardtuneError as error:
            errors.send(DataError(str(error)))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            errors.send(error)


def _raise_what_came(errors: Connection) -> None:
    with contextlib.suppress(EOFError):
        if errors.poll():
            raise errors.recv()


def _refuse_dead(processes: Sequence[Any]) -> None:
    for process in processes:
        if process.exitcode == -signal.SIGKILL:
            raise WorkerKilled(
                "a process that prepared the data was killed; if memory was short (see dmesg), set fewer "
                "data.prepare_processes, and start again: it goes on with what is left"
            )
        if process.exitcode:
            raise RuntimeError(f"a process that prepared the data ended with {process.exitcode}; see above")


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """A path to write to; what was written is then there under its own name, whole and on the disk, or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        draft = Path(file.name)
    try:
        yield draft
        with draft.open("rb+") as file:
            os.fsync(file.fileno())
        draft.chmod(0o644)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def this_machine() -> str:
    """A name for where process numbers mean what they mean here."""
    return hashlib.sha256(pid_scope().encode()).hexdigest()[:12]
