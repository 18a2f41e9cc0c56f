"""The points of a sweep together: over seeds mean, deviation and Student's interval; over fractions a curve."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from shardtune.launcher.plan.several import plan_several
from shardtune.launcher.plan.sweep import SweepPlan, write_sweep
from shardtune.launcher.runs.sweep_results import SweepResults, read_results
from shardtune.run_dir.files import METRICS, RESULTS

pytestmark = pytest.mark.usefixtures("folder")
CHOSEN = {"metric": "accuracy", "lower_is_better": False}


def several(*overrides: str, fractions: str | None = None) -> SweepPlan:
    sweep = plan_several(Path("x.yaml"), overrides, None, fractions)
    assert sweep is not None
    write_sweep(sweep)
    return sweep


def finish(run_dir: Path, accuracy: float, loss: float = 0.5, *, num_rows: int = 100) -> None:
    dev = {"accuracy": accuracy - 0.01, "loss": loss}
    test = {"accuracy": accuracy, "loss": loss, "num_answers": 3, "intervals": {"accuracy": [0.1, 0.2]}}
    results = {"step": 3, "best_step": 3, "dev": dev, "test": test, "chosen_by": CHOSEN}
    (run_dir / RESULTS).write_text(json.dumps(results))
    start = {"event": "start", "time": 1.0, "step": 0, "num_steps": 3, "num_rows": num_rows}
    (run_dir / METRICS).write_text(json.dumps(start) + "\n")


def read(sweep: SweepPlan) -> SweepResults:
    return read_results(sweep, {point.number: "finished" for point in sweep.points})


def test_mean_deviation_and_interval_are_those_of_scipy() -> None:
    sweep, values = several("train.seeds=[1,2,3]"), [0.81, 0.84, 0.86]
    for point, value in zip(sweep.points, values, strict=True):
        finish(point.run_dir, value)
    results = read(sweep)
    (group,) = results.groups
    spread = group.spreads["test/accuracy"]
    interval = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    assert (spread.mean, spread.deviation) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    found = (spread.mean - spread.half_width, spread.mean + spread.half_width)
    assert found == pytest.approx(interval, abs=1e-4)
    assert set(group.spreads) == {"dev/accuracy", "dev/loss", "test/accuracy", "test/loss"}
    results.write()
    written = json.loads((sweep.sweep_dir / RESULTS).read_text())
    of_accuracy = written["over_seeds"][0]["metrics"]["test/accuracy"]
    assert of_accuracy["values"] == {"1": 0.81, "2": 0.84, "3": 0.86}
    assert of_accuracy["interval"] == pytest.approx(interval, abs=1e-4) and of_accuracy["n"] == 3
    assert "Runs that differ in their seeds alone" in results.page.read_text()
    assert "over 3 seeds\nMETRIC" in results.render()


def test_a_seed_without_results_is_named_and_not_in_the_mean() -> None:
    sweep = several("train.seeds=[1,2,3]")
    finish(sweep.point(1).run_dir, 0.8)
    finish(sweep.point(3).run_dir, 0.9, loss=math.nan)
    results = read(sweep)
    (group,) = results.groups
    assert group.spreads["test/accuracy"].number == 2 and group.spreads["test/loss"].number == 1
    assert group.as_json()["metrics"]["test/loss"]["interval"] is None
    assert "over 3 seeds; without results: 2" in results.render()


def test_fractions_have_a_learning_curve_in_text_page_and_results() -> None:
    sweep = several("train.seeds=[1,2]", fractions="0.1,0.3,1.0")
    for point in sweep.points:
        rows = round(1000 * point.recipe.data.fraction)
        finish(point.run_dir, 1 - 3 * rows**-0.5 + 0.001 * point.recipe.train.seed, 9 / rows, num_rows=rows)
    results = read(sweep)
    accuracy, loss = results.curves
    assert (accuracy.metric, loss.metric) == ("test/accuracy", "test/loss")
    assert [(point.fraction, point.rows) for point in accuracy.points] == [
        (0.1, 100), (0.1, 100), (0.3, 300), (0.3, 300), (1.0, 1000), (1.0, 1000)
    ]  # fmt: skip
    assert accuracy.law is not None and accuracy.law.exponent == pytest.approx(0.5, abs=0.02)
    assert len(results.groups) == 3
    assert "More rows would help" in results.render()
    results.write()
    page = results.page.read_text()
    assert "Would more data help?" in page and 'aria-label="test/accuracy by training rows"' in page
    written = json.loads((sweep.sweep_dir / RESULTS).read_text())["learning_curves"][0]
    assert written["verdict"].startswith("More rows would help")
    assert [at["rows"] for at in written["expected"]] == [2000, 4000]


def test_a_curve_that_has_just_begun_says_what_it_needs() -> None:
    sweep = several(fractions="0.1,1.0")
    finish(sweep.point(1).run_dir, 0.8, num_rows=10)
    assert "at least three fractions that are finished" in read(sweep).render()
    assert "Would more data help?" not in read(several("train.seeds=[1,2]")).render()
