"""Trackers show what the events say, under names that sort into sections."""

import math

from shardtune.run_dir.view.tracked import records, sectioned
from tests.support.tracked_run import SAMPLES, WHOLE, step_event


def test_the_numbers_of_a_step_are_sorted_into_sections() -> None:
    values = sectioned(step_event(3, at=1))
    assert sorted(values) == [
        *("memory/memory_bytes", "perf/mfu", "perf/tokens_per_s", "ranks/lost_share", "ranks/slowest_rank"),
        *("train/epoch", "train/grad_norm", "train/loss", "train/lr", "train/skipped_steps"),
    ]


def test_null_is_nan_but_for_a_gpu_that_is_not_there() -> None:
    values = sectioned({"event": "step", "time": 1.0, "step": 1, "loss": None, "slowest_gpu": None})
    assert list(values) == ["train/loss"] and math.isnan(values["train/loss"])  # type: ignore[arg-type]


def test_dev_is_eval_other_splits_keep_their_names_and_inner_entries_get_a_path() -> None:
    dev = {"event": "eval", "split": "dev", "step": 1, "loss": 0.5, "per": {"B-PER": {"f1": 1}}, "answers": SAMPLES}
    assert sectioned(dev) == {"eval/loss": 0.5, "eval/per/B-PER/f1": 1, "eval/answers": SAMPLES}
    assert sectioned({"event": "eval", "split": "test", "step": 1, "loss": 0.5}) == {"test/loss": 0.5}


def test_a_retention_set_has_a_path_of_its_own_and_what_only_names_it_is_no_number() -> None:
    event = {"event": "retention", "set": "news", "task": "t", "step": 1, "metric": "f1", "lower_is_better": False}
    assert sectioned({**event, "f1": 0.5, "loss": 1.0}) == {"retention/news/f1": 0.5, "retention/news/loss": 1.0}


def test_events_without_a_step_have_that_of_the_event_before() -> None:
    seen = [(record.step, sorted(record.values)[0]) for record in records(WHOLE)]
    assert seen[-1] == (3, "time/goodput")
    assert next(records([{"event": "time_use", "time": 1.0, "goodput": 0.5}], step=7)).step == 7


def test_events_of_which_nothing_is_known_are_skipped() -> None:
    assert not list(records([{"event": "step", "step": 1, "loss": 1.0}, {"event": "other", "time": 1.0, "x": 1}, {}]))
