"""Which key and which number each line of metrics.jsonl gets in W&B."""

import math
from typing import Any

import pytest

from shardtune.trainer.reporting.wandb_run.keys import Row, Rows, best_of, section_of, train_key


def step(number: int, **values: Any) -> tuple[str, dict[str, Any]]:
    return "step", {"step": number, "epoch": number / 10, "tokens_per_s": 100.0, "step_time_s": 2.0, **values}


def rows_of(*events: tuple[str, dict[str, Any]]) -> list[Row]:
    rows = Rows()
    return [row for event, values in events if (row := rows.add(event, values)) is not None]


def lost(to: int, num_steps: int) -> tuple[str, dict[str, Any]]:
    return "lost", {"step": to, "num_steps": num_steps, "seconds": 1.0}


BEGIN: tuple[str, dict[str, Any]] = ("begin", {})
ROLLED_BACK = [BEGIN, step(1), step(2), lost(2, 1), step(3), step(4)]
"""What metrics.jsonl holds of a start that did steps 1 to 3, went back to 2, and did 3 and 4."""


@pytest.mark.parametrize(
    ("key", "in_wandb"),
    [
        ("loss", "train/loss"),
        ("lr", "train/lr"),
        ("mfu", "perf/mfu"),
        ("gpu_power_w", "perf/gpu_power_w"),
        ("memory_bytes", "memory/bytes"),
        ("memory_retries", "memory/retries"),
        ("slowest_rank", "ranks/slowest_rank"),
        ("skipped_steps", "faults/skipped_steps"),
        ("of_tomorrow", "train/of_tomorrow"),
    ],
)
def test_each_number_of_a_step_is_in_a_section(key: str, in_wandb: str) -> None:
    assert train_key(key) == in_wandb


def test_evaluations_are_by_split_and_retention_by_set() -> None:
    assert section_of({"event": "eval", "split": "dev"}) == "eval/dev"
    assert section_of({"event": "retention", "set": "news"}) == "retention/news"


@pytest.mark.parametrize(
    ("key", "best"),
    [
        ("train/loss", "min"),
        ("eval/dev/loss", "min"),
        ("eval/dev/perplexity", "min"),
        ("eval/test/mae", "min"),
        ("eval/dev/accuracy", "max"),
        ("eval/dev/f1_macro", "max"),
        ("eval/dev/kl_to_base", "min"),
        ("retention/news/accuracy", "max"),
        ("retention/wiki/perplexity", "min"),
        ("perf/tokens_per_s", "max"),
        ("train/lr", None),
        ("step", None),
    ],
)
def test_the_best_value_of_a_metric_is_by_its_direction(key: str, best: str | None) -> None:
    assert best_of(key) == best


def test_each_row_has_step_tokens_and_epoch() -> None:
    (row,) = rows_of(BEGIN, ("start", {"step": 0}), step(3, loss=0.5, grad_norm=math.nan, compute_s=[1.0, 2.0]))
    assert row.number == 30
    assert row.values == {
        "step": 3,
        "tokens": 600,
        "epoch": 0.3,
        "train/loss": 0.5,
        "perf/tokens_per_s": 100.0,
        "perf/step_time_s": 2.0,
        "faults/starts": 1,
    }


def test_evaluations_after_a_step_come_after_its_row_and_test_at_its_own_step() -> None:
    dev = ("eval", {"split": "dev", "step": 2, "loss": 0.5})
    test = ("eval", {"split": "test", "step": 1, "loss": 0.4})
    rows = rows_of(BEGIN, ("eval", {"split": "dev", "step": 0, "loss": 1.0}), step(1), step(2), dev, test)
    assert [(row.number, row.values["step"]) for row in rows] == [(1, 0), (10, 1), (20, 2), (21, 2), (22, 1)]


def test_steps_that_a_rollback_undid_are_rows_of_their_own_live_and_uploaded_later() -> None:
    live = Rows()
    for event, values in (BEGIN, step(1), step(2), step(3)):
        live.add(event, values)
    live.rolled_back(2)
    redone = [live.add(*step(number)) for number in (3, 4)]
    assert redone == rows_of(*ROLLED_BACK)[2:]
    assert [(row.number, row.values["step"], row.values["tokens"]) for row in redone if row] == [
        (40, 3, 600),
        (50, 4, 800),
    ]


def test_steps_that_a_crash_lost_have_the_numbers_that_they_had() -> None:
    """So W&B, which may have them already, does not show them twice."""
    before = rows_of(BEGIN, step(1), step(2), step(3))
    after = rows_of(BEGIN, step(1), step(2), lost(2, 1), BEGIN, ("start", {"step": 2}), step(3), step(4))
    assert [row.number for row in before] == [10, 20, 30]
    assert [row.number for row in after] == [10, 20, 30, 40]
    assert after[2].values["faults/starts"] == 2


def test_a_crash_after_a_rollback_keeps_its_numbers_too() -> None:
    rows = rows_of(*ROLLED_BACK[:5], lost(3, 1), BEGIN, ("start", {"step": 3}), step(4))
    assert [row.number for row in rows] == [row.number for row in rows_of(*ROLLED_BACK)]
