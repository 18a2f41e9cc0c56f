"""Plans are corrected by the nearest runs of the same model, strategy and precision, and by no others."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from shardtune.planner.measured.corrections import (
    UNCORRECTED,
    PastRun,
    Subject,
    correction_of,
    past_of,
    past_run,
    subject_of,
)
from tests.shardtune.planner.measured.test_cpu_step import JOB

SUBJECT = Subject("model", "zero2", "bf16", "cpu", 2, 1000.0)


def runs(*steps: float, subject: Subject = SUBJECT, memory: float | None = 1.1) -> list[PastRun]:
    return [PastRun(subject, step, memory) for step in steps]


def test_without_runs_nothing_is_corrected() -> None:
    assert correction_of([], SUBJECT) is UNCORRECTED


@pytest.mark.parametrize(
    "other", [{"model": "other"}, {"strategy": "zero3"}, {"precision": "fp32"}, {"device": "h100-sxm-80g"}]
)
def test_runs_of_something_else_say_nothing(other: dict[str, str]) -> None:
    assert correction_of(runs(1.3, subject=replace(SUBJECT, **other)), SUBJECT) is UNCORRECTED


def test_the_median_of_earlier_runs_corrects_time_and_memory() -> None:
    found = correction_of(runs(1.2, 1.3, 1.25), SUBJECT)
    assert (found.step, found.memory, found.num_runs) == (1.25, 1.1, 3)
    assert str(found) == "corrected by 3 earlier runs on this machine"


def test_the_range_narrows_with_runs_that_agree() -> None:
    one, several = correction_of(runs(1.2), SUBJECT), correction_of(runs(1.2, 1.2, 1.2), SUBJECT)
    assert one.spread == 1.15 and several.spread == 1.08
    assert correction_of(runs(1.0, 1.2, 1.4), SUBJECT).spread == pytest.approx(1.2)


def test_of_many_runs_the_five_with_the_nearest_number_of_tokens_count() -> None:
    far = runs(*[2.0] * 9, subject=replace(SUBJECT, tokens=8000.0))
    assert correction_of([*far, *runs(1.1, 1.1, 1.1, 1.1, 1.1)], SUBJECT).step == 1.1
    other_ranks = runs(*[2.0] * 9, subject=replace(SUBJECT, ranks=1))
    assert (
        correction_of([*other_ranks, *runs(*[1.1] * 5, subject=replace(SUBJECT, tokens=8000.0))], SUBJECT).step == 1.1
    )


def test_disturbed_runs_do_not_count() -> None:
    assert correction_of(runs(9.0, 0.1, memory=None), SUBJECT) is UNCORRECTED


def test_a_run_without_a_planned_time_still_tells_of_memory() -> None:
    found = correction_of([PastRun(SUBJECT, None, 1.2)], SUBJECT)
    assert (found.step, found.memory, found.spread) == (1.0, 1.2, None)


def test_what_a_run_teaches_is_relative_to_its_uncorrected_plan() -> None:
    plan = {
        "subject": asdict(SUBJECT), "step_s": 2.0, "uncorrected_step_s": 1.0, "memory_bytes": 100
    }  # fmt: skip
    assert past_of(plan, {"step_s": 1.5, "memory_bytes": 120.0}) == PastRun(SUBJECT, 1.5, 1.2)
    # 50 tokens a second were planned after a correction by 2, so 100 without, and 80 were real.
    real = {"step_s": 1.5, "tokens_per_s": 80.0}
    assert past_of(plan | {"tokens_per_s": 50.0}, real) == PastRun(SUBJECT, 100 / 80, None)
    assert past_of(plan, {}) is None
    assert past_of({"step_s": 2.0}, {"step_s": 1.5}) is None


def test_a_run_survives_json() -> None:
    run = PastRun(SUBJECT, 1.5, None)
    assert past_run(json.loads(json.dumps(run.as_json()))) == run


@pytest.mark.parametrize("value", [None, {}, {"subject": {}}, {"subject": asdict(SUBJECT), "step": -1, "memory": None}])
def test_anything_else_is_no_run(value: Any) -> None:
    with pytest.raises(ValueError):
        past_run(value)


def test_the_subject_of_a_plan_is_the_model_and_not_its_name() -> None:
    renamed = replace(JOB, shape=replace(JOB.shape, name="other"))
    assert subject_of(renamed, None) == subject_of(JOB, None)
    assert subject_of(replace(JOB, shape=replace(JOB.shape, vocabulary=7)), None).model != subject_of(JOB, None).model
    assert subject_of(JOB, None).tokens == 512
