"""What a viewer keeps of the events of a run."""

import math

from shardtune.run_dir.follow.history import MAX_LINES, RunHistory
from shardtune.run_dir.quality.retention import retention_line
from tests.support import retained_run
from tests.support.hand_made_run import Event, event, life, start, step


def history_of(events: list[Event]) -> RunHistory:
    history = RunHistory()
    history.add_all(events)
    return history


def test_a_history_has_the_newest_numbers_and_the_curves() -> None:
    history = history_of(life(40))
    assert history.step is not None and history.step["step"] == 40
    assert history.start is not None and history.start["num_steps"] == 100
    assert history.curves["loss"].points()[0] == (1, 2.0)
    assert history.curves["loss"].points("time")[0] == (11.0, 2.0)  # since the first event
    assert history.curves["dev/f1"].points() == [(10, 0.1), (20, 0.2), (30, 0.3), (40, 0.4)]


def test_the_metric_shown_is_the_wanted_one_or_else_not_the_loss() -> None:
    history = history_of(life(10))
    assert [history.metric(name) for name in (None, "loss", "unknown")] == ["dev/f1", "dev/loss", "dev/f1"]
    assert RunHistory().metric() is None


def test_the_best_value_is_the_lowest_loss_and_the_highest_score() -> None:
    evaluations = [
        event("eval", 1.0, split="dev", step=1, loss=0.5, f1=0.7, per_class={"a": 1.0}, n=3),
        event("eval", 2.0, split="dev", step=2, loss=0.6, f1=0.8),
        event("eval", 3.0, split="dev", step=3, loss=math.nan, f1=0.75),
        event("eval", 4.0, split="test", step=3, loss=0.1, f1=0.99),
    ]
    history = history_of(evaluations)
    assert history.best == {"dev/loss": 0.5, "dev/f1": 0.8}
    assert (history.curves["dev/f1"].newest, history.curves["dev/loss"].newest) == (0.75, None)


def test_warnings_restarts_and_lost_steps_are_faults() -> None:
    events = [
        *life(20),
        event("alert", 50.0, title="step 12 was skipped", text="loss is nan", step=12),
        event("lost", 51.0, step=10, num_steps=10, seconds=65.0),
        event("begin", 60.0, job="12"),
        start(61.0, step=10),
    ]
    history = history_of(events)
    assert (history.num_starts, history.num_alerts, history.num_lost_steps) == (2, 1, 10)
    assert [fault.text for fault in history.faults] == [
        "step 12 was skipped: loss is nan",
        "lost, to be done again: 10 steps after step 10 (1:05)",
        "start 2, job 12",
    ]
    assert history.ranks.num_reports == 0  # those of the newest start


def test_the_ranks_are_ordered_by_what_they_cost() -> None:
    ranks = history_of([start(0.0), *(step(number, 1.0 * number) for number in range(1, 31))]).ranks
    first, second = ranks.shares()
    assert (first.rank, first.num_slowest, first.place) == (1, 30, "node1, GPU 1")
    assert (second.rank, second.num_slowest, second.place) == (0, 0, "")
    straggler = ranks.straggler()
    assert straggler is not None and straggler.name == "rank 1 (node1, GPU 1)"


def test_an_event_of_unexpected_content_is_counted_and_passed_over() -> None:
    odd = [event("step", 1.0), event("eval", 1.0), event("alert", 2.0), event("phase", 3.0), event("future", 4.0)]
    odd += [step(3, 5.0, loss="high"), step(3, 6.0) | {"step": "x"}, event("start", 7.0, step=None)]
    history = history_of(odd)
    assert (history.num_damaged, history.step, history.start) == (7, None, None)
    history.add_all(life(10))
    assert history.step is not None and history.step["step"] == 10


def test_the_lines_are_bounded() -> None:
    history = history_of([event("notice", float(number), text=str(number)) for number in range(5000)])
    assert (len(history.lines), history.lines[-1].text) == (MAX_LINES, "4999")


def test_what_is_retained_is_known_by_the_first_and_newest_evaluations_and_in_the_end_by_the_results() -> None:
    events = retained_run.events()
    history = history_of(events[:-1])
    assert retention_line(history.retention()).startswith("news accuracy 0.7000 (-0.2000)  questions accuracy")
    assert history.curves["retention/wiki/perplexity"].points()[0] == (0, 12.0)
    assert next(line.text for line in history.lines if "retention of wiki" in line.text) == (
        "step 0: retention of wiki  loss 0.5000  perplexity 12.0000"
    )
    history.add_all(events[-1:])
    assert retention_line(history.retention()).startswith("news accuracy 0.8280 (-0.0720)")
    assert (history.num_damaged, history.metric()) == (0, "dev/accuracy")
    history.add_all([{"event": "retention", "time": 1.0, "set": "x"}])
    assert history.num_damaged == 1
