"""Each unit is done once, by any of the processes, and the others carry on when one of them dies."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.run_dir.files import published
from shardtune.trainer.data.prepare import work_queue as module
from shardtune.trainer.data.prepare.work_queue import FinishedElsewhere, WorkQueue
from shardtune.trainer.data.stored import to_bytes

NUM_UNITS = 12


def noted(folder: Path, unit: int) -> int:
    """Leaves a note of the process that did the unit, and takes a moment."""
    folder.mkdir(exist_ok=True)
    (folder / f"{unit}-{os.getpid()}").touch()
    time.sleep(0.005)
    return unit * unit


def units_done(folder: Path) -> list[int]:
    return sorted(int(path.name.split("-")[0]) for path in folder.iterdir())


def at_once(*bodies: Callable[[], Any]) -> list[Any]:
    """The results of the bodies, each run in a process of its own."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    processes = [
        context.Process(target=lambda at=at, body=body: answers.put((at, body()))) for at, body in enumerate(bodies)
    ]
    for process in processes:
        process.start()
    found = dict(answers.get() for _ in processes)
    for process in processes:
        process.join()
    return [found[at] for at in range(len(bodies))]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_all_units_are_done_in_order_and_not_again(tmp_path: Path, num_processes: int) -> None:
    for _ in range(2):
        work = WorkQueue(tmp_path / "work", num_processes=num_processes)
        assert work.map("squares", NUM_UNITS, lambda unit: noted(tmp_path / "notes", unit)) == [
            unit * unit for unit in range(NUM_UNITS)
        ]
    assert units_done(tmp_path / "notes") == list(range(NUM_UNITS))


def test_machines_do_each_unit_once_and_all_get_all_results(tmp_path: Path) -> None:
    def on(machine: str) -> Any:
        work = WorkQueue(tmp_path / "work", num_processes=2, machine=machine)
        return work.map("squares", NUM_UNITS, lambda unit: noted(tmp_path / "notes", unit))

    found = at_once(lambda: on("a"), lambda: on("b"))
    assert found == [[unit * unit for unit in range(NUM_UNITS)]] * 2
    assert units_done(tmp_path / "notes") == list(range(NUM_UNITS))


def test_what_was_done_before_a_fault_stays_done(tmp_path: Path) -> None:
    def failing(unit: int) -> int:
        if unit == 5:
            raise DataError("the sixth")
        return noted(tmp_path / "notes", unit)

    with pytest.raises(DataError, match="the sixth"):
        WorkQueue(tmp_path / "work").map("squares", NUM_UNITS, failing)
    assert units_done(tmp_path / "notes") == [0, 1, 2, 3, 4]
    again = WorkQueue(tmp_path / "work").map("squares", NUM_UNITS, lambda unit: noted(tmp_path / "notes", unit))
    assert again == [unit * unit for unit in range(NUM_UNITS)]
    assert units_done(tmp_path / "notes") == list(range(NUM_UNITS))


def claim(work: WorkQueue, unit: int, machine: str) -> Path:
    """A claim by a process on another machine; returns the file by which that shows that it is alive."""
    token = f"{machine}.1.2"
    (work.folder / "claims" / f"squares-{unit:05}").write_text(token)
    return work.folder / "alive" / token


def test_a_claim_of_a_process_that_signed_off_or_died_on_this_machine_is_void(tmp_path: Path) -> None:
    work = WorkQueue(tmp_path / "work")
    claim(work, 0, "gone")
    claim(work, 1, module.this_machine())
    assert work.map("squares", 2, lambda unit: unit) == [0, 1]


def test_a_machine_without_signs_of_life_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALE_S", 0.5)
    work = WorkQueue(tmp_path / "work")
    claim(work, 1, "silent").touch()
    os.utime(work.folder / "alive" / "silent.1.2", (2e9, 2e9))  # the clock of that machine is years ahead
    since = time.monotonic()
    assert work.map("squares", 2, lambda unit: unit) == [0, 1]
    assert time.monotonic() - since > 0.5


def test_a_machine_that_is_alive_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALE_S", 0.5)
    monkeypatch.setattr(module, "BEAT_S", 0.1)
    work = WorkQueue(tmp_path / "work")
    alive = claim(work, 1, "slow")

    def slowly() -> None:
        for beat in range(12):
            os.utime(alive, (beat, beat))
            time.sleep(0.1)
        with published(tmp_path / "work" / "squares" / f"00001{module.RESULT}") as path:
            path.write_bytes(to_bytes("slow"))

    alive.touch()
    (tmp_path / "work" / "squares").mkdir()
    found, _ = at_once(lambda: work.map("squares", 2, lambda unit: "own"), slowly)
    assert found == ["own", "slow"]


def test_work_that_was_finished_elsewhere_is_left(tmp_path: Path) -> None:
    work = WorkQueue(tmp_path / "work", is_finished=lambda: True)
    with pytest.raises(FinishedElsewhere):
        work.map("squares", 1, lambda unit: unit)


def test_bad_rows_found_by_a_worker_process_are_raised_in_the_parent(tmp_path: Path) -> None:
    def failing(unit: int) -> None:
        faults = Faults()
        faults.add(f"a.csv:{unit}", "nothing in it")
        faults.raise_if_any()

    with pytest.raises(BadRowsError, match=r"a\.csv:\d: nothing in it") as raised:
        WorkQueue(tmp_path / "work", num_processes=2).map("squares", 2, failing)
    assert not raised.value.faults.are_rows_alone


def test_a_killed_worker_process_is_reported_and_not_waited_for(tmp_path: Path) -> None:
    def killed(unit: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(DataError, match=r"was killed; if memory was short .* lower data\.prepare_processes"):
        WorkQueue(tmp_path / "work", num_processes=2).map("squares", 2, killed)


def test_the_last_one_to_leave_removes_the_folder_of_finished_work(tmp_path: Path) -> None:
    one, other = WorkQueue(tmp_path / "work", machine="a"), WorkQueue(tmp_path / "work", machine="b")
    one.leave(is_done=True)
    assert (tmp_path / "work").is_dir()
    other.leave(is_done=True)
    assert not (tmp_path / "work").exists()
    unfinished = WorkQueue(tmp_path / "work")
    unfinished.leave(is_done=False)
    assert (tmp_path / "work").is_dir()


def test_a_file_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), published(tmp_path / "a") as path:
        path.write_text("half")
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
    with published(tmp_path / "a") as path:
        path.write_text("whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "whole")]


def test_progress_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int, int]] = []
    WorkQueue(tmp_path / "one", progress=lambda *words: told.append(words)).map("squares", 3, lambda unit: unit)
    assert told == [("squares", 0, 3), ("squares", 1, 3), ("squares", 2, 3), ("squares", 3, 3)]
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    told.clear()
    work = WorkQueue(tmp_path / "two", num_processes=2, progress=lambda *words: told.append(words))
    work.map("squares", 12, lambda unit: time.sleep(0.05))
    assert [stage for stage, _, _ in told] == ["squares"] * len(told)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[0] == ("squares", 0, 12) and 0 < told[-1][1] <= 12
