"""When ranks that failed are restarted, and how the launcher learns that they hang."""

import os
import time
from pathlib import Path

from shardtune.launcher.start.follow import Heartbeats, hung_ranks, newest_saved
from shardtune.launcher.start.restart import Failure, GiveUp, Restart, next_start
from shardtune.recipe.sections.fault_policy import FaultsConfig
from shardtune.run_dir.files import alive_path, stacks_path

CONFIG = FaultsConfig(max_restarts=9, restart_delay_s=5.0)


def mishaps(*steps: int) -> list[Failure]:
    return [Failure(step, is_mishap=True) for step in steps]


def test_each_restart_waits_twice_as_long_up_to_five_minutes() -> None:
    delays = [next_start(mishaps(*range(number)), CONFIG) for number in range(1, 10)]
    assert delays == [
        Restart(delay, number)
        for number, delay in enumerate((5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0), start=1)
    ]


def test_it_gives_up_with_a_reason_after_max_restarts_or_at_the_third_failure_at_one_step() -> None:
    assert isinstance(next_start(mishaps(*range(10)), CONFIG), GiveUp)
    assert isinstance(next_start(mishaps(7, 7), CONFIG), Restart)
    assert next_start(mishaps(3, 7, 7, 7), CONFIG) == GiveUp("no restart: 3 starts in a row ended at step 7")
    assert isinstance(next_start(mishaps(7, 7, 8), CONFIG), Restart)


def test_a_new_checkpoint_starts_the_count_of_restarts_again() -> None:
    three = FaultsConfig(max_restarts=3)
    weeks = [Failure(100 * week + 7, is_mishap=True, saved=100 * week) for week in range(1, 21)]
    assert next_start(weeks, three) == Restart(5.0, 1)
    stuck = [Failure(2000 + more, is_mishap=True, saved=1900) for more in range(4)]
    assert next_start([*weeks[:18], *stuck[:3]], three) == Restart(20.0, 3)
    used_up = "no restart: all 3 restarts since the checkpoint of step 1900 are used up (faults.max_restarts)"
    assert next_start([*weeks[:18], *stuck], three) == GiveUp(used_up)


def test_the_newest_checkpoint_is_the_one_of_the_highest_step_that_is_complete(tmp_path: Path) -> None:
    assert newest_saved(tmp_path) == 0
    for name in ("step-9", "step-10", ".step-20", "step-x"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    assert newest_saved(tmp_path) == 10


def test_a_checkpoint_that_is_lost_and_written_again_is_no_progress() -> None:
    saved = [30, 20, 30, 20, 30]
    failures = [Failure(31 + at, is_mishap=True, saved=step) for at, step in enumerate(saved)]
    assert isinstance(next_start(failures[:-1], FaultsConfig(max_restarts=4)), Restart)
    assert isinstance(next_start(failures, FaultsConfig(max_restarts=4)), GiveUp)


def test_a_failure_before_the_first_step_is_not_restarted() -> None:
    assert next_start([Failure(0, is_mishap=False)], CONFIG) == GiveUp("")
    assert next_start(mishaps(5), FaultsConfig(max_restarts=0)) == GiveUp("")


def test_a_start_that_will_do_something_differently_follows_at_once_and_is_not_counted() -> None:
    amended = Failure(0, is_mishap=True, is_amended=True)
    assert next_start([amended] * 20, FaultsConfig(max_restarts=0)) == Restart(0.0, 0)
    assert next_start([amended, *mishaps(7), amended, *mishaps(7)], CONFIG) == Restart(10.0, 2)
    assert isinstance(next_start([*mishaps(7), amended, *mishaps(7), amended, *mishaps(7)], CONFIG), GiveUp)


def test_heartbeats_are_detected_by_a_change_and_not_by_the_clock_of_the_file_server(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    alive_path(tmp_path, 0).touch()
    os.utime(alive_path(tmp_path, 0), (0, 0))  # its clock stands at 1970
    heartbeats = Heartbeats(tmp_path)
    time.sleep(0.2)
    assert heartbeats.silence_s() >= 0.2
    alive_path(tmp_path, 1).touch()
    assert heartbeats.silence_s() < 0.2


def test_a_hang_is_detected_by_the_stack_traces_of_this_start(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    assert hung_ranks(tmp_path, 0) == []
    stacks_path(tmp_path, 0).write_text("")  # a rank that is watched, and healthy
    stacks_path(tmp_path, 1).write_text("Timeout!")
    assert hung_ranks(tmp_path, time.time() - 60) == [stacks_path(tmp_path, 1)]
    assert hung_ranks(tmp_path, time.time() + 60) == []
