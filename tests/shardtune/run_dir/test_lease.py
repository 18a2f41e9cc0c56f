"""A run directory has one writer, also when a start that is believed dead is not, and when several come together."""

import json
import multiprocessing as mp
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.run_dir import lease as leases
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease import (
    FileLease,
    is_of_another_start,
    join_lease,
    owner_seen_alive,
    release,
    take_lease,
    wait_for_lease,
)
from shardtune.run_dir.lease_holder import UNREADABLE, LeaseHolder, read_holder, render_holder, this_process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEASE


@pytest.fixture
def held(path: Path) -> Iterator[FileLease]:
    lease = take_lease(path, "7")
    yield lease
    lease.close()


def on_another_machine(path: Path) -> LeaseHolder:
    """Moves the lease's holder to a machine whose processes this one cannot see."""
    holder = read_holder(path)
    assert holder is not None
    holder = replace(holder, host="node9", kernel="another")
    path.write_text(render_holder(holder))
    return holder


class Clock:
    """Time that passes in sleeps alone, in which something may happen."""

    def __init__(self, happens: Callable[[float], None] = lambda _: None) -> None:
        self.now = 0.0
        self._happens = happens

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._happens(self.now)


def wait(path: Path, clock: Clock, job: str | None = None) -> float:
    wait_for_lease(path, job, clock=clock, sleep=clock.sleep)
    return clock.now


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("job", [None, "8"])
def test_a_second_start_is_refused_while_the_first_lives(path: Path, job: str | None) -> None:
    with pytest.raises(CheckpointError, match=r"is owned by job 7, process \d+ on .*shardtune stop"):
        wait(path, Clock(), job)


def test_a_holder_that_died_on_this_machine_is_succeeded_at_once(path: Path) -> None:
    def take_and_die() -> None:
        take_lease(path)
        os._exit(1)

    process = mp.get_context("fork").Process(target=take_and_die)
    process.start()
    process.join()
    assert path.exists()
    assert wait(path, Clock()) == 0


def test_a_holder_on_another_machine_is_dead_once_nothing_was_seen_of_it_for_a_minute(
    path: Path, held: FileLease
) -> None:
    on_another_machine(path)
    assert wait(path, Clock()) == 60


def test_a_holder_on_another_machine_lives_if_it_touches_its_lease(path: Path, held: FileLease) -> None:
    on_another_machine(path)
    clock = Clock(lambda now: path.touch() if now == 20 else None)
    with pytest.raises(CheckpointError, match=r"is owned by job 7, process \d+ on node9"):
        wait(path, clock)
    assert clock.now == 20


def test_a_holder_on_another_machine_that_ends_is_succeeded_then(path: Path, held: FileLease) -> None:
    on_another_machine(path)
    assert wait(path, Clock(lambda now: path.unlink() if now == 20 else None)) == 20


@pytest.mark.usefixtures("held")
def test_a_later_start_of_the_same_job_takes_over_at_once_and_the_earlier_finds_out(
    path: Path, held: FileLease
) -> None:
    held.check()
    assert wait(path, Clock(), "7") == 0
    later = take_lease(path, "7")
    with pytest.raises(TakenOverError, match=r"another start, job 7.* took over this run directory"):
        held.check()
    held.close()
    later.check()
    later.close()
    assert not path.exists()


def test_a_directory_that_is_away_takes_no_lease_from_its_holder(tmp_path: Path) -> None:
    run_dir, away = tmp_path / "run", tmp_path / "away"
    run_dir.mkdir()
    lease = take_lease(run_dir / LEASE)
    run_dir.rename(away)
    lease.check()
    run_dir.write_text("")
    lease.check()
    run_dir.unlink()
    away.rename(run_dir)
    lease.check()
    lease.close()
    assert not (run_dir / LEASE).exists()


def test_a_holder_keeps_touching_its_lease(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.run_dir.lease.BEAT_S", 0.01)
    lease = take_lease(path)
    before = path.stat().st_mtime_ns
    time.sleep(0.3)
    assert path.stat().st_mtime_ns > before
    lease.close()


NUM_STARTS = 24
HOLD_S = 60.0
"""For how long a start holds the lease at most, until all others were refused."""


def race(path: Path, gate: Path, refused: "mp.sharedctypes.Synchronized[int]", results: "mp.SimpleQueue[str]") -> None:
    """Takes the lease as soon as the gate is open, holds it until the others were refused, and says whether it did."""
    while not gate.exists():
        time.sleep(0.0005)
    try:
        lease = take_lease(path)
        until = time.monotonic() + HOLD_S
        while refused.value < NUM_STARTS - 1 and time.monotonic() < until:
            time.sleep(0.01)
        lease.check()
    except CheckpointError as error:
        results.put(str(error))
        with refused.get_lock():
            refused.value += 1
    else:
        results.put("held")  # and dies with it, as a start does that is killed


@pytest.mark.parametrize("left", ["nothing", "a dead owner", "a dead owner and a dead successor"])
def test_of_many_starts_that_come_together_exactly_one_gets_the_lease(path: Path, left: str) -> None:
    if left != "nothing":
        path.write_text(render_holder(dead("first")))
    if left.endswith("successor"):
        path.with_name(f".{LEASE}.first").write_text(render_holder(dead("second")))
    context = mp.get_context("fork")
    results, refused, gate = context.SimpleQueue(), context.Value("i", 0), path.with_name("gate")
    starts = [context.Process(target=race, args=(path, gate, refused, results)) for _ in range(NUM_STARTS)]
    for start in starts:
        start.start()
    gate.touch()
    said = [results.get() for _ in starts]
    for start in starts:
        start.join()
    assert said.count("held") == 1, said
    assert all(text == "held" or "is owned by process" in text for text in said), said
    assert {one.name for one in path.parent.iterdir()} == {LEASE, "gate"}


def dead(token: str) -> LeaseHolder:
    """A start of a process of this machine that has ended."""
    return replace(this_process(job=None, token=token), born=1)


def test_without_the_exclusive_link_several_starts_would_get_the_lease(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_exclusive(path: Path, holder: LeaseHolder) -> bool:
        is_free = not path.exists()
        time.sleep(0.05)
        path.write_text(render_holder(holder))
        return is_free

    monkeypatch.setattr(leases, "_create", not_exclusive)
    monkeypatch.setattr(sys.modules[__name__], "HOLD_S", 0.5)
    with pytest.raises(AssertionError):
        test_of_many_starts_that_come_together_exactly_one_gets_the_lease(path, "nothing")


def test_a_disk_without_hard_links_has_leases_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    lease = take_lease(path)
    with pytest.raises(CheckpointError, match="is owned by"):
        take_lease(path)
    lease.close()
    assert list(path.parent.iterdir()) == []
    path.touch()  # by a process that has not written it yet
    assert read_holder(path) == UNREADABLE
    assert wait(path, Clock()) == 60


def test_a_launcher_keeps_the_lease_while_no_rank_lives_and_a_rank_when_the_launcher_is_dead(path: Path) -> None:
    launcher = take_lease(path)
    rank = join_lease(path, launcher.token)
    launcher.check()
    rank.check()
    rank.close()
    with pytest.raises(CheckpointError, match="is owned by"):  # between two starts of its ranks
        take_lease(path)
    rank = join_lease(path, launcher.token)
    holder = read_holder(path)
    assert holder is not None
    path.write_text(render_holder(replace(holder, born=1)))
    with pytest.raises(CheckpointError, match="is owned by"):  # its ranks save a checkpoint
        take_lease(path)
    rank.close()
    launcher.close()
    assert not path.exists()


def test_a_rank_whose_start_has_others_by_now_finds_out(path: Path) -> None:
    launcher = take_lease(path)
    lost = join_lease(path, launcher.token)
    again = join_lease(path, launcher.token)
    again.check()
    with pytest.raises(TakenOverError):
        lost.check()
    for lease in (lost, again, launcher):
        lease.close()


def test_who_has_lost_the_lease_can_neither_join_nor_release_it(path: Path) -> None:
    lost = take_lease(path, "7")
    later = take_lease(path, "7")
    with pytest.raises(TakenOverError, match="took over this run directory"):
        join_lease(path, lost.token)
    release(path, lost.token)
    later.check()
    later.close()
    lost.close()


def test_what_a_later_version_adds_to_a_lease_is_ignored(path: Path) -> None:
    holder = this_process(job="7", token="later")
    path.write_text(json.dumps({**asdict(holder), "attempt": 2}))
    assert read_holder(path) == holder


def test_a_start_waits_for_one_that_is_about_to_end(path: Path, held: FileLease) -> None:
    said: list[str] = []
    clock = Clock(lambda now: path.unlink() if now > 3 else None)
    assert wait_for_lease(path, None, patience_s=10, say=said.append, clock=clock, sleep=clock.sleep) is None
    assert len(said) == 1 and "waiting in case it is about to exit" in said[0]


def test_ranks_by_hand_know_their_own_start_and_that_of_another(path: Path) -> None:
    assert not is_of_another_start(path, None, "node1 29500")
    lease = take_lease(path, start="node1 29500")
    assert not is_of_another_start(path, None, "node1 29500")
    assert not is_of_another_start(path, lease.token, None)
    assert is_of_another_start(path, None, "node1 29501") and is_of_another_start(path, None, None)
    assert is_of_another_start(path, "another", "node1 29500")
    lease.close()


def test_an_owner_is_seen_alive_here_or_by_its_beat_and_not_by_an_old_one(path: Path, held: FileLease) -> None:
    assert owner_seen_alive(path) == read_holder(path)
    holder = on_another_machine(path)
    assert owner_seen_alive(path, 0.3) is None
    os.utime(path, (1, 1))
    assert owner_seen_alive(path, 100) is None  # at once
    os.utime(path)
    held.leave()
    toucher = mp.get_context("fork").Process(target=lambda: (time.sleep(0.3), path.touch()))
    toucher.start()
    assert owner_seen_alive(path, 10) == holder
    toucher.join()
