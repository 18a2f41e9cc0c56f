"""What became of each retention set: by its events, by the results, and both."""

import pytest

from shardtune.run_dir.quality.retention import RetentionSet, TradeOff, retention_line, retention_sets, targets_of
from shardtune.run_dir.view.results import render_retention
from tests.support.retained_run import BEST, events, results, retention, sets_at


def found(*given: object, **more: object) -> dict[str, RetentionSet]:
    return {each.name: each for each in retention_sets(*given, **more)}  # type: ignore[arg-type]


def test_a_set_has_its_value_before_that_of_the_best_model_and_the_newest() -> None:
    wiki = found(events(), results())["wiki"]
    assert (wiki.metric, wiki.lower_is_better, wiki.before, wiki.last) == ("perplexity", True, 12.0, 21.0)
    assert (wiki.best, wiki.change, wiki.is_worse) == (pytest.approx(17.4), pytest.approx(5.4), True)
    assert list(wiki.values) == [0, 20, 40, 60, 80, 100]


def test_events_alone_tell_the_same_if_the_best_step_is_known() -> None:
    assert found(events(), best_step=BEST) == found(events(), results())


def test_results_alone_tell_before_and_best() -> None:
    news = found([], results())["news"]
    assert (news.before, news.best, news.last) == (0.9, pytest.approx(0.828), None)


def test_without_a_best_model_the_change_is_that_of_the_newest_evaluation() -> None:
    news = found([*sets_at(0), *sets_at(50)])["news"]
    assert (news.best, news.change, news.is_worse) == (None, pytest.approx(-0.05), True)
    assert retention_line([news]) == "news accuracy 0.8500 (-0.0500)"


def test_a_gain_is_not_worse_in_either_direction() -> None:
    better = [retention("a", at, "accuracy", 0.5 + at) for at in (0, 1)]
    lower = [retention("b", at, "perplexity", 9.0 - at) for at in (0, 1)]
    assert not any(each.is_worse for each in retention_sets([*better, *lower]))


def test_a_step_that_was_done_again_counts_once_as_it_was_last() -> None:
    twice = [
        retention("a", 0, "accuracy", 0.5),
        retention("a", 5, "accuracy", 0.25),
        retention("a", 5, "accuracy", 0.75),
    ]
    assert found(twice)["a"].values == {0: 0.5, 5: 0.75}


@pytest.mark.parametrize("value", [None, float("nan"), "x", True])
def test_what_is_no_finite_number_is_no_value(value: object) -> None:
    only = retention("a", 0, "accuracy", 0.5) | {"accuracy": value}
    assert found([only])["a"].values == {} and found([only])["a"].before is None
    assert retention_line(retention_sets([only])) == "a accuracy ?"


def test_the_curve_has_the_steps_at_which_both_were_evaluated() -> None:
    targets = targets_of(events(), "accuracy", results())
    curve = found(events(), results())["questions"].trade_off(targets, BEST)
    assert curve[0] == TradeOff(0, pytest.approx(0.66), 0.8, is_best=False)
    assert [point.step for point in curve if point.is_best] == [BEST] and len(curve) == 6
    assert targets_of([], "accuracy", results()) == {0: pytest.approx(0.66)}


def test_damaged_events_are_left_out() -> None:
    damaged = [{"event": "retention"}, {"event": "retention", "set": "a", "metric": 3, "step": 1}, {"event": "eval"}]
    assert retention_sets(damaged, {"retention": {"a": None, "b": {"best": []}}, "best_step": 1})[1].name == "b"
    assert retention_sets(damaged, {"retention": []}) == []


def test_the_end_of_a_run_prints_a_row_for_each_set() -> None:
    assert [line.split() for line in render_retention(results()).splitlines()] == [
        ["retention", "before", "best", "model", "change"],
        ["news:", "accuracy", "0.9000", "0.8280", "-0.0720"],
        ["questions:", "accuracy", "0.8000", "0.7700", "-0.0300"],
        ["wiki:", "perplexity", "12.0000", "17.4000", "+5.4000"],
    ]
    assert render_retention({"best_step": 3}) == ""
