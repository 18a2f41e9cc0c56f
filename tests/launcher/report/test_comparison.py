"""Runs beside each other: ordered, told apart by what differs, and summed up over seeds."""

import json
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.report.comparison import (
    compare_runs,
    differences_tables,
    render_comparison,
    results_table,
    seeds_tables,
    sentences,
)
from shardtune.launcher.report.record import RunRecord, read_record
from tests.launcher.report.test_page import START, STEP, write_run

CONFIG = "task: {{kind: classification}}\nmodel: {{path: /m}}\ndata: {{train: /a.csv}}\n{more}\n"
CHOSEN = {"metric": "accuracy", "lower_is_better": False}


def run(folder: Path, name: str, accuracy: float | None, more: str = "", **scores: Any) -> RunRecord:
    (folder / name).mkdir(parents=True)
    results = {"step": 2, "best_step": 1, "dev": {"accuracy": accuracy, "loss": 0.5, **scores}, "chosen_by": CHOSEN}
    files = {} if accuracy is None else {"results_json": json.dumps(results)}
    events = [START, {**STEP, "step": 1}, {**STEP, "step": 2}]
    return read_record(write_run(folder / name, events, config_yaml=CONFIG.format(more=more), **files))


def test_seeds_are_summed_up_and_other_settings_kept_apart(tmp_path: Path) -> None:
    records = [
        run(tmp_path, f"{lr}-{seed}", accuracy, f"train: {{seed: {seed}}}\noptim: {{lr: {lr}}}")
        for lr, accuracies in (("1.0e-4", (0.80, 0.82, 0.84)), ("2.0e-4", (0.5,)))
        for seed, accuracy in enumerate(accuracies)
    ]
    comparison = compare_runs(records)
    assert comparison.names == ["1.0e-4-2", "1.0e-4-1", "1.0e-4-0", "2.0e-4-0"]
    assert len(set(comparison.colours)) == 2
    (table,) = seeds_tables(comparison)
    assert table.rows[0] == ("optim.lr=0.0001", "dev/accuracy", "0.8200", "± 0.0200", "3", "0.7703 to 0.8697")
    assert table.rows[1] == ("optim.lr=0.0001", "dev/loss", "0.5000", "± 0.0000", "3", "0.5000 to 0.5000")
    assert len(table.rows) == 2, "a run without another seed has no spread"
    assert "0.8200 ± 0.0200 over 3 seeds (95% interval of the mean 0.7703 to 0.8697)" in sentences(comparison)[0]
    (differences,) = differences_tables(comparison)
    assert differences.head == ("run", "train.seed", "optim.lr")


def test_a_run_without_results_comes_last_and_is_not_in_the_mean(tmp_path: Path) -> None:
    records = [run(tmp_path, "new", None, "train: {seed: 1}"), run(tmp_path, "old", 0.5, "train: {seed: 2}")]
    comparison = compare_runs(records)
    assert [row[0] for row in results_table(comparison).rows] == ["old", "new"]
    assert results_table(comparison).rows[1][1] == "step 2 of 9"
    assert [row[4] for row in seeds_tables(comparison)[0].rows] == ["1", "1"]
    assert seeds_tables(comparison)[0].rows[0][5] == "", "one run has no interval"


def test_where_a_lower_value_is_better_it_comes_first(tmp_path: Path) -> None:
    records = [run(tmp_path, name, 0.5, loss=loss) for name, loss in (("a", 2.0), ("b", 1.0))]
    by_loss = {"metric": "loss", "lower_is_better": True}
    for record in records:
        record.results["chosen_by"] = by_loss  # type: ignore[index]
    assert compare_runs(records).names == ["b", "a"]


def test_runs_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    records = [run(tmp_path / folder, "run", 0.5) for folder in ("a", "b")]
    assert compare_runs(records).names == ["a/run", "b/run"]


@pytest.mark.parametrize("config", ["", "task: [", "new_key: 1\n"])
def test_a_run_of_another_version_is_compared_by_its_results(tmp_path: Path, config: str) -> None:
    records = [run(tmp_path, "a", 0.5), run(tmp_path, "b", 0.75)]
    (tmp_path / "b" / "config.yaml").write_text(config)
    comparison = compare_runs([records[0], read_record(tmp_path / "b")])
    assert comparison.names == ["b", "a"] and seeds_tables(comparison) == []
    assert "Comparison of 2 runs" in render_comparison(comparison)


def test_many_runs_that_differ_in_nothing_say_so_by_silence(tmp_path: Path) -> None:
    comparison = compare_runs([run(tmp_path, str(at), 0.5) for at in range(12)])
    assert comparison.differences == {} and differences_tables(comparison) == []
    page = render_comparison(comparison)
    assert page.count("<polyline") >= 12 and "They differ" not in page
