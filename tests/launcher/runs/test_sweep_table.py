"""The points of a sweep are compared by the metric that chose each one's best model."""

import json
import math
from pathlib import Path
from typing import Any

from shardtune.launcher.plan.sweep import plan_sweep, write_sweep
from shardtune.launcher.report.record import RunRecord
from shardtune.launcher.runs.sweep_results import read_results
from shardtune.launcher.runs.sweep_table import (
    in_order,
    outcome_of,
    render_outcomes,
    render_sweep_page,
)
from shardtune.run_dir.view.history import history_of

CHOSEN = {"metric": "accuracy", "lower_is_better": False}


def record(events: list[dict[str, Any]]) -> RunRecord:
    return RunRecord(name="", history=history_of(events))


def results(accuracy: float, **more: Any) -> dict[str, Any]:
    return {"best_step": 6, "dev": {"accuracy": accuracy, "confusion": [[1]]}, "chosen_by": CHOSEN} | more


def test_the_best_point_comes_first_and_one_without_results_last() -> None:
    points = [
        outcome_of(0, ("optim.lr=1",), "failed", None),
        outcome_of(1, ("optim.lr=2",), "finished", results(0.5, test={"accuracy": 0.25})),
        outcome_of(2, ("optim.lr=3", "train.seed=1"), "finished", results(0.75)),
    ]
    assert (
        render_outcomes(points)
        == """\
POINT  STATE     dev/accuracy  test/accuracy  BEST STEP  OVERRIDES
2      finished  0.7500                       6          optim.lr=3 train.seed=1
1      finished  0.5000        0.2500         6          optim.lr=2
0      failed                                            optim.lr=1"""
    )


def test_a_point_with_nan_on_dev_comes_last() -> None:
    chosen = {"chosen_by": {"metric": "accuracy", "lower_is_better": False}}
    dev = [{"accuracy": math.nan, "loss": 1.0}, {"accuracy": 0.9, "loss": math.nan}, {"accuracy": 0.1, "loss": 1.0}]
    dev.append({"accuracy": math.inf, "loss": 1.0})
    points = [outcome_of(at, (), "finished", {"dev": metrics} | chosen) for at, metrics in enumerate(dev)]
    assert [outcome.number for outcome in in_order(points)] == [2, 0, 1, 3]


def test_the_lowest_value_comes_first_if_lower_is_better() -> None:
    chosen = {"chosen_by": {"metric": "loss", "lower_is_better": True}}
    points = [outcome_of(at, (), "finished", {"dev": {"loss": loss}} | chosen) for at, loss in enumerate([2.0, 1.0])]
    assert [outcome.number for outcome in in_order(points)] == [1, 0]


def test_the_page_has_a_line_for_each_point_and_no_name_is_code() -> None:
    events = [
        {"event": "step", "step": 1, "loss": 0.5},
        {"event": "eval", "split": "dev", "step": 1, "loss": 0.4, "accuracy": 0.5, "time": 1.0},
    ]
    points = [outcome_of(0, ("x=<b>",), "finished", results(0.5)), outcome_of(1, (), "failed", None)]
    page = render_sweep_page("a <sweep>", points, {0: record(events), 1: record([])})
    assert page.count("<svg") == 3  # dev accuracy, dev loss, training loss
    assert "x=&lt;b&gt;" in page and "<b>" not in page and "a &lt;sweep&gt;" in page
    assert "dev time" not in page


def test_a_sweep_that_has_just_begun_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    recipe = {
        "task": {"kind": "classification"},
        "model": {"path": "org/name"},
        "data": {"train": str(tmp_path / "train.csv")},
    }
    (tmp_path / "x.yaml").write_text(json.dumps(recipe))
    sweep = plan_sweep(tmp_path / "x.yaml", (), tmp_path / "s", [["train.seed=1"], ["train.seed=2"]])
    write_sweep(sweep)
    results = read_results(sweep, {0: "new", 1: "pending"})
    results.write()
    assert [outcome.state for outcome in results.outcomes] == ["new", "pending"]
    assert results.page.read_text().count("<tr>") == 3
