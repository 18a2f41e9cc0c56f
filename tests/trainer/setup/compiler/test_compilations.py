"""Each compilation is counted and tells the watchdog; where torch gives up on a function, that is said."""

from typing import Any

import torch
from torch import Tensor

from shardtune.trainer.between_steps.callback import StepDone
from shardtune.trainer.between_steps.compile_report import CompileReport
from shardtune.trainer.checkpoint.train_state import TrainState
from shardtune.trainer.distributed import watchdog
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.setup.compiler import compilations as counting
from shardtune.trainer.setup.compiler.compilations import Compilations, uncompiled
from tests.support.ranks import run_ranks


def powers() -> Any:
    """A function that is compiled anew for each of the numbers that it gets."""

    def power(base: Tensor, exponent: list[int]) -> Tensor:
        return base ** len(exponent)

    return torch.compile(power, backend="eager", dynamic=False)


def test_what_is_compiled_is_counted_and_what_runs_uncompiled_is_not() -> None:
    def body(ranks: Ranks) -> tuple[int, int, float]:
        compilations, power = Compilations(), powers()
        for length in (1, 2, 1, 2, 2):
            power(torch.ones(3), [0] * length)
        with uncompiled():
            power(torch.ones(3), [0] * 3)
        return compilations.number, compilations.most_variants, compilations.seconds

    ((number, most_variants, seconds),) = run_ranks(body, world_size=1)
    assert (number, most_variants) == (2, 2) and seconds > 0


def test_a_compilation_is_progress_for_the_watchdog() -> None:
    def body(ranks: Ranks) -> int:
        beats: list[None] = []
        counting.beat = lambda: beats.append(None)
        counting.BEAT_EVERY_S = 0.01
        Compilations()
        powers()(torch.ones(3), [0])
        return len(beats)

    assert watchdog.beat is counting.beat
    (beats,) = run_ranks(body, world_size=1)
    assert beats > 2, "at its beginning, at its end, and while it lasts"


class Events:
    """A reporter that keeps what is reported."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def report(self, event: str, /, **values: Any) -> None:
        self.events.append({"event": event, **values})

    def go_back(self, step: int) -> None: ...

    def close(self) -> None: ...


def reported(ranks: Ranks, lengths: list[list[int]], usual: int, limit: int) -> list[dict[str, Any]]:
    """The events of steps in which such lengths occur on each of the ranks, with such a limit of variants."""
    counting.LIMIT = limit
    import shardtune.trainer.between_steps.compile_report as reporting

    reporting.USUAL = usual
    events, power, state = Events(), powers(), TrainState()
    report = CompileReport(compilations=Compilations(), every_steps=1, reporter=events, ranks=ranks)
    done: StepDone = None  # type: ignore[assignment]
    for step, of_ranks in enumerate(lengths, start=1):
        power(torch.ones(3), [0] * of_ranks[ranks.rank])
        state = TrainState(step=step)
        report.step_done(state, done)
    report.finish(state)
    return events.events


def test_steps_that_compile_on_any_rank_are_reported() -> None:
    for events in run_ranks(reported, [[1, 1], [1, 1], [1, 2]], 10, 10):
        assert [(e["step"], e["compilations"], e["total"]) for e in events] == [(1, 1, 1), (3, 1, 2)]
        assert all(event["compile_s"] > 0 for event in events)


def test_too_many_variants_are_said_once_and_so_is_that_torch_compiles_no_more() -> None:
    (events,) = run_ranks(reported, [[1], [2], [3], [4], [5]], 1, 3, world_size=1)
    alerts = [event for event in events if event["event"] == "alert"]
    assert [(event["step"], event["title"]) for event in alerts] == [
        (2, "torch.compile does not come to an end"),
        (4, "torch.compile has given up"),
    ]
    assert "functions (power) have too many variants; further ones run uncompiled" in alerts[1]["text"]
    assert all("set engine.compile=off" in event["text"] for event in alerts)
