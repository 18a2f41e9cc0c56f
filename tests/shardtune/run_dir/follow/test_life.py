"""What the time of a run went to is the same whether its events are kept or only added up."""

import random

import pytest

from shardtune.run_dir.follow.life import Life
from shardtune.run_dir.view.time_use import time_use
from tests.support.hand_made_run import Event, event, life, start, step


def random_life(seed: int) -> list[Event]:
    """Some starts, with steps, phases, lost steps and other events in any order."""
    generator, now, at = random.Random(seed), 1000.0, 0
    events = []
    for launch in range(generator.randint(1, 4)):
        launched = now if generator.random() < 0.5 or not events else events[0].get("launched", now)
        if launch or generator.random() < 0.8:
            events.append(event("begin", now + 2, process_began=now + 1, launched=launched, queued=now - 30))
        events.append(start(now + 5, step=at))
        now += 5
        for _ in range(generator.randint(0, 40)):
            now += generator.uniform(0.5, 3)
            kind = generator.choice(["step"] * 6 + ["phase", "notice", "alert", "lost", "checkpoint"])
            if kind == "step":
                at += generator.choice((1, 1, 5))
                lost = {"lost_share": generator.random() / 2} if generator.random() < 0.7 else {"lost_share": None}
                real = generator.choice((None, 0.5, 0.9))
                events.append(step(at, now, step_time_s=generator.random(), padding_efficiency=real, **lost))
            elif kind == "phase":
                events.append(event("phase", now, name=generator.choice(("evaluating on dev", "saving", None))))
            elif kind == "lost":
                at = max(0, at - 2)
                events.append(event("lost", now, step=at, num_steps=2, seconds=1.5))
            else:
                events.append(event(kind, now, step=at))
    return events


@pytest.mark.parametrize("seed", range(40))
def test_a_life_that_is_added_up_has_the_time_use_of_its_events(seed: int) -> None:
    events, added = random_life(seed), Life()
    for number, each in enumerate(events):
        added.add(each)
        if number % 7 == 0 or number == len(events) - 1:
            expected = time_use(events[: number + 1]).seconds
            assert added.time_use().seconds == pytest.approx(expected, abs=1e-6)


def test_steps_in_a_row_are_one_event() -> None:
    added = Life()
    for each in life(1000):
        added.add(each)
    assert len(added._events) < 250  # an evaluation ends each row of ten
    assert added.time_use().seconds == pytest.approx(time_use(life(1000)).seconds)
