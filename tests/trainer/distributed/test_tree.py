"""Votes and gathers of hundreds of ranks: as many rounds of messages as log2 of their number."""

from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.trainer.between_steps.step_report import StepReport
from shardtune.trainer.between_steps.stop_checks import StopChecks
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed.background import Background, run_on_zero
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.distributed.stop import Stop, StopAsked
from shardtune.trainer.distributed.tree import num_rounds
from shardtune.trainer.reporting.fragmentation import Fragmentation
from shardtune.trainer.reporting.gpu_sensors import GpuSensors
from shardtune.trainer.reporting.stragglers import Pace, RankLocation
from tests.support.many_ranks import on_threads
from tests.support.ranks import run_ranks


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7, 8, 512])
def test_each_rank_sends_at_most_log2_messages_for_a_vote_and_one_for_a_gather(
    num_ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def vote(ranks: Ranks) -> tuple[bool, bool]:
        return ranks.any(ranks.rank == num_ranks // 2), ranks.any(False)

    answers, messages = on_threads(vote, num_ranks, monkeypatch)
    assert answers == [(True, False)] * num_ranks
    assert max(messages.sent.values(), default=0) <= 2 * num_rounds(num_ranks)

    gathered, messages = on_threads(lambda ranks: ranks.to_zero("x" * ranks.rank), num_ranks, monkeypatch)
    assert gathered == [["x" * rank for rank in range(num_ranks)], *[[]] * (num_ranks - 1)]
    assert max(messages.sent.values(), default=0) <= 2, "the sizes, and the content"


def test_what_512_ranks_tell_each_other_takes_nine_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert num_rounds(512) == 9
    gathered, messages = on_threads(lambda ranks: ranks.gather(ranks.rank), 512, monkeypatch)
    assert gathered == [list(range(512))] * 512
    assert max(messages.sent.values()) <= 2 + 2 * 9


@pytest.mark.parametrize("world_size", [1, 3])
def test_real_ranks_vote_and_gather(world_size: int) -> None:
    def body(ranks: Ranks) -> list[object]:
        last = ranks.world_size - 1
        return [ranks.gather({"rank": ranks.rank}), ranks.to_zero(ranks.rank), ranks.from_zero("a" * ranks.rank)] + [
            ranks.any(ranks.rank == rank) for rank in (0, last, last + 1)
        ]

    everything = [{"rank": rank} for rank in range(world_size)]
    for rank, answers in enumerate(run_ranks(body, world_size=world_size)):
        on_zero = [] if rank else list(range(world_size))
        assert answers == [everything, on_zero, "", True, True, False]


class NoLease:
    def check(self) -> None: ...

    def check_here(self) -> None: ...


def stopped_after(ranks: Ranks, asked: int, at: int, num_batches: int) -> int | None:
    """The number of batches after which the ranks stop, if one of them is asked to at its batch `at`."""
    stop, seen = Stop(), 0
    try:
        for number in StopChecks(stop, NoLease(), ranks).between(range(num_batches)):
            seen += 1
            if (ranks.rank, number) == (asked, at):
                stop.reason = "SIGTERM"
    except StopAsked:
        return seen
    return None


@pytest.mark.parametrize(("num_ranks", "asked"), [(1, 0), (2, 1), (5, 3), (512, 137)])
def test_a_request_to_one_rank_stops_all_at_the_same_batch_after_log2_batches(
    num_ranks: int, asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = max(1, num_rounds(num_ranks))
    ends, messages = on_threads(lambda ranks: stopped_after(ranks, asked, 3, 40), num_ranks, monkeypatch)
    assert len(set(ends)) == 1 and ends[0] is not None
    assert 4 <= ends[0] <= 4 + 2 * rounds
    assert max(messages.sent.values(), default=0) <= 40, "one a batch"
    assert (
        on_threads(lambda ranks: stopped_after(ranks, asked, 50, 40), num_ranks, monkeypatch)[0] == [None] * num_ranks
    )


def test_what_rank_zero_or_any_other_raises_is_raised_on_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise DataError("x.csv: bad")

    def body(ranks: Ranks) -> list[str]:
        said = [run_on_zero(ranks, lambda: f"by {ranks.rank}")]
        for work in (lambda: run_on_zero(ranks, fail), Background(ranks, fail if ranks.rank == 5 else str).results):
            with pytest.raises(DataError, match=r"x\.csv: bad"):
                work()
        return said

    assert on_threads(body, 8, monkeypatch)[0] == [["by 0"]] * 8


class Meter:
    """Of a rank that has computed for a second, rank 300 for two."""

    num_steps = 1
    penalty = None

    def __init__(self, rank: int) -> None:
        self.compute_s = 2.0 if rank == 300 else 1.0

    def report(self) -> dict[str, Any]:
        return {"step_time_s": 2.0}


class Events(list[tuple[str, dict[str, Any]]]):
    def report(self, event: str, /, **values: Any) -> None:
        self.append((event, values))


def test_a_report_of_512_ranks_names_the_slowest_and_costs_each_of_them_two_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def report(ranks: Ranks) -> Events:
        meter: Any = Meter(ranks.rank)
        reporter: Any = Events()
        pace = Pace(ranks.to_zero(RankLocation(f"node{ranks.rank // 8}", ranks.local_rank)))
        sensors = GpuSensors(ranks.device)
        common: dict[str, Any] = {"every_steps": 1, "num_steps": 1, "steps_per_epoch": 1}
        common |= {"sensors": sensors, "fragmentation": Fragmentation(2**40), "reporter": reporter, "ranks": ranks}
        report = StepReport(**common, meter=meter, pace=pace)
        report.finish(TrainState(step=1))
        return Events(reporter)

    events, messages = on_threads(report, 512, monkeypatch)
    ((event, numbers),) = events[0]
    assert (event, numbers["slowest_rank"], numbers["slowest_host"]) == ("step", 300, "node37")
    assert numbers["lost_share"] == pytest.approx(511 / 1024, abs=1e-6)
    assert not any(events[1:])
    assert max(messages.sent.values()) <= 2 * 2, "where they are, and their numbers; the sizes and the content of each"


def test_with_many_ranks_few_pairs_are_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.trainer.distributed.ranks.MOST_MESHED", 4)
    monkeypatch.delenv("TORCH_GLOO_LAZY_INIT", raising=False)

    def num_sockets(ranks: Ranks) -> int:
        ranks.gather(ranks.any(True))
        ranks.barrier()
        links = Path("/proc/self/fd").iterdir()
        count = sum(link.readlink().name.startswith("socket:") for link in links if link.is_symlink())
        ranks.barrier()
        return count

    assert max(run_ranks(num_sockets, world_size=12)) <= 2 * num_rounds(12) + 1 < 12
