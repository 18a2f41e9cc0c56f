"""A rank without progress says where it stands, and ends; one with progress is left alone."""

import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from shardtune.run_dir.files import alive_path, stacks_path
from shardtune.trainer.distributed import watchdog
from shardtune.trainer.distributed.tree import num_rounds
from shardtune.trainer.distributed.watchdog import beat, follow_heartbeats, peers_of, watching

HANG_S = 1.0


def exit_code(body: Callable[[Path], None], run_dir: Path, method: str = "fork") -> int | None:
    (run_dir / "logs").mkdir(exist_ok=True)
    process = mp.get_context(method).Process(target=body, args=(run_dir,))
    process.start()
    process.join(60)
    return process.exitcode


def hang(run_dir: Path) -> None:
    threading.Thread(target=wait_in_a_thread, daemon=True).start()
    with watching(run_dir, 3, HANG_S):
        beat()
        wait_for_a_peer()


def wait_in_a_thread() -> None:
    time.sleep(50)


def wait_for_a_peer() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()  # in C, for ever


def work(run_dir: Path) -> None:
    with watching(run_dir, 3, HANG_S):
        for _ in range(20):
            time.sleep(HANG_S / 8)
            beat()
    time.sleep(1.5 * HANG_S)  # nobody watches any more


def wait_unwatched(run_dir: Path) -> None:
    with watching(run_dir, 3, None):
        beat()
        time.sleep(1.5 * HANG_S)


def wait_while_a_peer_hangs(run_dir: Path) -> None:
    with watching(run_dir, 3, 10 * HANG_S, num_ranks=5):
        stacks_path(run_dir, 4).write_text("Timeout!")
        wait_a_little()
    wait_unwatched(run_dir)


def wait_a_little() -> None:
    time.sleep(4 * HANG_S)


def lose_a_peer(run_dir: Path) -> None:
    with watching(run_dir, 3, 10 * HANG_S, num_ranks=5):
        wait_for_its_answer()


def lose_a_hung_peer(run_dir: Path) -> None:
    with watching(run_dir, 3, 10 * HANG_S, num_ranks=5):
        stacks_path(run_dir, 4).write_text("Timeout!")
        wait_for_its_answer()


def wait_for_its_answer() -> None:
    raise ConnectionError("closed by peer")


def join(run_dir: Path) -> None:
    with watching(run_dir, 3, HANG_S, joining=True):
        assert stacks_path(run_dir, "3-joining").exists()


def test_a_rank_that_hangs_says_where_each_of_its_threads_stands_and_ends(tmp_path: Path) -> None:
    assert exit_code(hang, tmp_path) == 1
    said = stacks_path(tmp_path, 3).read_text(encoding="utf-8")
    assert said.startswith("Timeout (0:00:01)!")
    assert "in wait_for_a_peer" in said and "in wait_in_a_thread" in said


def test_a_rank_that_waits_for_one_that_hangs_says_where_it_stands_too(tmp_path: Path) -> None:
    assert exit_code(wait_while_a_peer_hangs, tmp_path) == 0
    said = stacks_path(tmp_path, 3).read_text(encoding="utf-8")
    assert said.count("in wait_a_little") == 1, "once"


def test_a_rank_whose_hung_peer_has_ended_says_where_it_stood(tmp_path: Path) -> None:
    assert exit_code(lose_a_peer, tmp_path) == 1
    assert not stacks_path(tmp_path, 3).exists(), "nobody hangs"
    assert exit_code(lose_a_hung_peer, tmp_path) == 1
    said = stacks_path(tmp_path, 3).read_text(encoding="utf-8")
    assert "in wait_for_its_answer" in said and "ConnectionError: closed by peer" in said
    assert "(most recent call first)" in said


def test_a_rank_that_is_yet_to_join_the_others_leaves_the_files_of_another_start_alone(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    for path in (alive_path(tmp_path, 3), stacks_path(tmp_path, 3)):
        path.touch()
    before = alive_path(tmp_path, 3).stat()
    assert exit_code(join, tmp_path) == 0
    assert alive_path(tmp_path, 3).stat() == before
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["rank-3.alive", "rank-3.stacks.txt"]


def test_a_rank_that_makes_progress_is_left_alone_and_seen_alive(tmp_path: Path) -> None:
    assert exit_code(work, tmp_path) == 0
    assert not stacks_path(tmp_path, 3).exists()
    assert alive_path(tmp_path, 3).exists()


def test_a_start_that_was_believed_dead_moves_nothing_of_the_later_one(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    alive, stacks = alive_path(tmp_path, 3), stacks_path(tmp_path, 3)
    with watching(tmp_path, 3, 60):
        before = alive.stat()
        assert exit_code(later_start, tmp_path, "spawn") == 0  # faulthandler's thread is lost in a fork
        assert not os.path.samestat(alive.stat(), before)
        stacks.touch()  # as of a later one that goes on
        before = alive.stat().st_mtime_ns, alive.parent.stat().st_mtime_ns
        monotonic = time.monotonic() + 2
        while time.monotonic() < monotonic:
            beat()
            time.sleep(0.1)
    assert (alive.stat().st_mtime_ns, alive.parent.stat().st_mtime_ns) == before
    assert stacks.exists()


def later_start(run_dir: Path) -> None:
    with watching(run_dir, 3, 60):
        beat()


def test_nobody_watches_unless_asked_to(tmp_path: Path) -> None:
    assert exit_code(wait_unwatched, tmp_path) == 0
    beat()  # outside of any watch: nothing


@pytest.mark.parametrize(("is_followed", "every_s"), [(True, 1), (False, 10)])
def test_a_heartbeat_is_written_at_most_every_ten_seconds_where_nobody_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_followed: bool, every_s: int
) -> None:
    (tmp_path / "logs").mkdir()
    now = 0.0
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(watchdog, "_touch_s", None)
    follow_heartbeats(is_followed=is_followed)
    touches = []
    monkeypatch.setattr(os, "utime", touches.append)
    with watching(tmp_path, 3, 600, num_ranks=512):
        for _ in range(1000):
            now += 0.1
            beat()
    assert 100 / every_s * 0.9 <= len(touches) <= 100 / every_s + 1


def test_of_512_ranks_each_looks_at_nine_and_all_hear_of_a_hang_within_nine_looks() -> None:
    assert [len(peers_of(rank, 512)) for rank in (0, 137, 511)] == [9, 9, 9]
    for num_ranks in (2, 3, 100, 512):
        have_written, num_looks = {num_ranks // 3}, 0
        while len(have_written) < num_ranks:
            have_written |= {rank for rank in range(num_ranks) if have_written & {*peers_of(rank, num_ranks)}}
            num_looks += 1
        assert num_looks <= num_rounds(num_ranks)
    assert peers_of(0, 1) == []
