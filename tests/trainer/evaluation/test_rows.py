"""What is counted in each row adds up to what is counted in a batch, for every task."""

from pathlib import Path

import pytest
import torch

from shardtune.trainer.evaluation.row_file import read_rows
from shardtune.trainer.tasks.task import PerExample, summed
from tests.support.runs import events, tiny_recipe, train, write_tiny
from tests.trainer.test_host_waits import CASES, folder, load

__all__ = ["folder"]
UNPACKED = [name for name, case in CASES.items() if not case.packs]


@pytest.mark.parametrize("name", UNPACKED)
def test_the_counts_of_the_rows_add_up_to_those_of_their_batch(folder: Path, name: str) -> None:
    task, model, batch = load(folder, CASES[name])
    model.eval()
    task.calibrate({"thresholds": {"a": 0.5, "b": 0.4}, "calibration": {"temperature": 1.5}})  # what only dev tells
    with torch.no_grad():
        whole, each = model(**batch.inputs), model(**batch.with_each_target().inputs)
    losses, scores = task.loss_of_rows(each, batch), task.score_rows(each, batch)
    times = torch.ones(len(losses), dtype=torch.int64)
    assert losses.shape == batch.targets_of_rows.shape == (batch.labels.shape[0],)
    assert float(losses.sum()) == pytest.approx(float(task.loss_sum(whole, batch)), rel=1e-5)
    assert float(batch.targets_of_rows.sum()) == batch.num_targets
    expected = {
        key: value.values if isinstance(value, PerExample) else value for key, value in task.score(whole, batch).items()
    }
    totals = task.totals(scores, times)
    assert totals.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(totals[key].double(), value.double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", UNPACKED)
def test_a_row_that_counts_twice_adds_twice_as_much(folder: Path, name: str) -> None:
    task, model, batch = load(folder, CASES[name])
    model.eval()
    with torch.no_grad():
        scores = task.score_rows(model(**batch.with_each_target().inputs), batch)
    first = {key: value[:1] for key, value in scores.items()}
    once, twice = (task.totals(first, torch.tensor([number])) for number in (1, 2))
    repeated = task.totals({key: value.repeat_interleave(2, 0) for key, value in first.items()}, torch.ones(2).long())
    for key in once:
        assert torch.equal(twice[key].double(), repeated[key].double()), key


def test_counts_of_rows_are_summed_exactly() -> None:
    scores = {"a": torch.tensor([2**40, 1, 1]), "b": torch.tensor([[1, 2], [3, 4], [5, 6]])}
    totals = summed(scores, torch.tensor([1, 0, 2]))
    assert totals["a"].item() == 2**40 + 2
    assert totals["b"].tolist() == [11, 14]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runs(tiny: Path) -> dict[int, Path]:
    """The same run on 1, 2 and 3 ranks."""
    folders = {}
    for world_size in (1, 2, 3):
        run_dir = folders[world_size] = tiny / f"on_{world_size}"
        assert all(train(tiny_recipe(tiny, "train.max_steps=4"), run_dir, world_size=world_size)[0])
    return folders


def test_test_metrics_and_their_intervals_are_the_same_on_any_number_of_ranks(runs: dict[int, Path]) -> None:
    metrics = [next(e for e in events(run, "eval") if e["split"] == "test") for run in runs.values()]
    names = ("accuracy", "f1_macro", "mcc", "confusion")
    assert all({name: m[name] for name in names} == {name: metrics[0][name] for name in names} for m in metrics)
    for name, (low, high) in metrics[0]["intervals"].items():
        assert low <= metrics[0][name] <= high, name
        for other in metrics[1:]:
            assert other["intervals"][name] == pytest.approx([low, high], rel=1e-4), name
    assert {"loss", "accuracy", "f1_macro", "mcc"} <= metrics[0]["intervals"].keys()


def test_the_file_of_rows_holds_each_row_once_in_order_with_the_counts_of_the_metrics(runs: dict[int, Path]) -> None:
    for run in runs.values():
        rows, places = read_rows(run / "test_rows.jsonl")
        assert [place.rpartition("/")[2] for place in places] == [f"test.jsonl:{line}" for line in range(1, 32)]
        test = next(event for event in events(run, "eval") if event["split"] == "test")
        scores = rows.passed.scores
        assert float((scores["true"] == scores["found"]).double().mean()) == pytest.approx(test["accuracy"])
        assert float(scores["loss_sum"].sum() / scores["num_targets"].sum()) == pytest.approx(test["loss"])
