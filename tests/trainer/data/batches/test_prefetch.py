"""Steps are made ahead on a thread: the same ones, not too many, and errors are raised in their turn."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from shardtune.trainer.data.batches.prefetch import LEAVE_S, prefetch
from shardtune.trainer.data.batches.steps import Step
from shardtune.trainer.distributed.ranks import Ranks
from tests.support.ranks import run_ranks


def step(number: int) -> Step:
    return Step(number, [], num_samples=1, num_targets=1.0, num_tokens=1, num_padded_tokens=1)


def test_the_steps_are_the_same_and_made_by_another_thread() -> None:
    makers = set()

    def steps() -> Iterator[Step]:
        for number in range(5):
            makers.add(threading.get_ident())
            yield step(number)

    with closing(prefetch(steps())) as ahead:
        assert [prefetched.item for prefetched in ahead] == [step(number) for number in range(5)]
    assert len(makers) == 1 and threading.get_ident() not in makers


def test_no_more_steps_than_the_depth_are_made_ahead_and_none_after_closing() -> None:
    made: list[int] = []

    def steps() -> Iterator[Step]:
        for number in range(100):
            made.append(number)
            yield step(number)

    with closing(prefetch(steps(), depth=2)) as ahead:
        assert next(ahead).item.number == 0
        while len(made) < 3:
            time.sleep(0.01)
        time.sleep(0.1)
        assert made == [0, 1, 2]
        next(ahead)
    assert made == [0, 1, 2, 3]


def test_the_time_waited_is_reported() -> None:
    ready = threading.Event()

    def steps() -> Iterator[Step]:
        time.sleep(0.2)
        yield step(0)
        ready.set()
        yield step(1)

    with closing(prefetch(steps())) as ahead:
        first = next(ahead)
        ready.wait()
        second = next(ahead)
    assert first.waited_s > 0.15 and second.waited_s < first.waited_s


def test_an_error_is_raised_in_its_turn() -> None:
    def steps() -> Iterator[Step]:
        yield step(0)
        raise ValueError("a bad row")

    with closing(prefetch(steps())) as ahead:
        assert next(ahead).item.number == 0
        with pytest.raises(ValueError, match="a bad row"):
            next(ahead)


def test_the_making_threads_may_use_collectives_while_the_ranks_do() -> None:
    def body(ranks: Ranks) -> list[tuple[int, float]]:
        makers = ranks.apart()

        def steps(first: int) -> Iterator[Step]:
            for number in range(first, 50):
                time.sleep(0.001 * ((number + ranks.rank) % 3))
                yield step(sum(makers.gather(number)))

        found = []
        for first, last in ((0, 20), (10, 50)):  # broken off once, as by a rollback
            with closing(prefetch(steps(first))) as ahead:
                for number, prefetched in zip(range(first, last), ahead, strict=False):
                    found.append((prefetched.item.number, ranks.sum(number + ranks.rank)[0]))
        return found

    one, two = run_ranks(body)
    numbers = [*range(20), *range(10, 50)]
    assert one == two == [(2 * number, 2.0 * number + 1) for number in numbers]


def test_a_training_that_has_failed_does_not_wait_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LEAVE_S <= 30
    monkeypatch.setattr("shardtune.trainer.data.batches.prefetch.LEAVE_S", 0.1)
    never = threading.Event()

    def steps() -> Iterator[Step]:
        yield step(0)
        never.wait()

    with closing(prefetch(steps())) as ahead:
        next(ahead)
    never.set()
