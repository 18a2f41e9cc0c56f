"""A run directory has one writer, also when a start that is believed dead is not."""

import json
import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from shardtune.errors import CheckpointError, TakenOverError
from shardtune.run_dir.files import LEASE
from shardtune.run_dir.lease_holder import LeaseHolder, read_holder, refuse_while_held
from shardtune.trainer.between_steps.milestones import Milestones
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from shardtune.trainer.distributed.lease import FileLease, open_lease, wait_for_lease
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks
from tests.support.runs import events, tiny_recipe, train


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / LEASE


@pytest.fixture
def held(path: Path) -> Iterator[FileLease]:
    lease = FileLease(path, job="7")
    yield lease
    lease.close()


def on_another_machine(path: Path) -> LeaseHolder:
    """Moves the lease's holder to a machine whose processes this one cannot see."""
    holder = read_holder(path)
    assert holder is not None
    holder = replace(holder, host="node9", kernel="another")
    path.write_text(json.dumps(asdict(holder)))
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


def test_any_rank_can_see_that_the_lease_has_been_lost(path: Path) -> None:
    def body(ranks: Ranks) -> bool:
        lease = open_lease(path.parent, ranks)
        lease.check_here()
        ranks.barrier()
        if ranks.is_zero:
            on_another_machine(path)
            path.write_text(path.read_text().replace(json.loads(path.read_text())["token"], "another"))
        ranks.barrier()
        with pytest.raises(TakenOverError, match=r"another start, process .* took over this run directory"):
            lease.check_here()
        lease.close()
        return True

    assert run_ranks(body) == [True, True]


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
        FileLease(path, None)
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
    later = FileLease(path, "7")
    with pytest.raises(TakenOverError, match=r"another start, job 7.* took over this run directory"):
        held.check()
    held.close()
    later.check()
    later.close()
    assert not path.exists()


def test_a_directory_that_is_away_takes_no_lease_from_its_holder(tmp_path: Path) -> None:
    run_dir, away = tmp_path / "run", tmp_path / "away"
    run_dir.mkdir()
    lease = FileLease(run_dir / LEASE, None)
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
    monkeypatch.setattr("shardtune.trainer.distributed.lease.BEAT_S", 0.01)
    lease = FileLease(path, None)
    before = path.stat().st_mtime_ns
    time.sleep(0.3)
    assert path.stat().st_mtime_ns > before
    lease.close()


@pytest.mark.usefixtures("held")
def test_the_refusal_is_said_on_every_rank(path: Path) -> None:
    def body(ranks: Ranks) -> str:
        with pytest.raises(CheckpointError) as error:
            open_lease(path.parent, ranks)
        return str(error.value)

    said = run_ranks(body)
    assert said[0] == said[1]


def test_a_start_that_was_taken_over_ends_without_another_checkpoint(tiny: Path, tmp_path: Path) -> None:
    step_done = Milestones.step_done

    def before() -> None:
        def taken_over_after_four_steps(self, state, step, stats, *, loss):  # type: ignore[no-untyped-def]
            if state.step == 4:
                FileLease(tmp_path / LEASE, "8")
            return step_done(self, state, step, stats, loss=loss)

        Milestones.step_done = taken_over_after_four_steps  # type: ignore[method-assign]

    with pytest.raises(AssertionError, match=r"another start, job 8.* took over this run directory"):
        train(tiny_recipe(tiny), tmp_path, world_size=1, before=before)
    assert len(events(tmp_path, "step")) == 4
    assert complete_checkpoints(tmp_path / "checkpoints") == []
    holder = read_holder(tmp_path / LEASE)
    assert holder is not None and holder.job == "8"


def test_another_start_is_refused_before_it_writes_while_a_process_of_this_machine_holds_the_lease(
    tmp_path: Path,
) -> None:
    lease, said = FileLease(tmp_path / LEASE, None), list[str]()
    with pytest.raises(CheckpointError, match=r"is owned by process \d+ on .*; wait until it has finished, or stop it"):
        refuse_while_held(tmp_path / LEASE, 0.3, said.append)
    assert len(said) == 1 and "waiting in case it is about to exit" in said[0]
    ends = threading.Timer(0.3, lease.close)
    ends.start()
    refuse_while_held(tmp_path / LEASE, 20, said.append)  # for it ends meanwhile
    refuse_while_held(tmp_path / LEASE, 0, said.append)
    other = FileLease(tmp_path / LEASE, None)
    on_another_machine(tmp_path / LEASE)
    refuse_while_held(tmp_path / LEASE, 0, said.append)  # whose ranks will know
    other.close()
