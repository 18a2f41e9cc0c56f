"""Averages of the weights in whole runs: what is evaluated, chosen, exported, and resumed."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shardtune.errors import ConfigError
from shardtune.run_dir.files import CHECKPOINTS, RESULTS
from shardtune.run_dir.view.results import finished_message
from shardtune.trainer.between_steps.evaluator import Evaluator
from shardtune.trainer.checkpoint.manifest import WEIGHTS, Checkpoint, complete_checkpoints
from shardtune.trainer.checkpoint.mean import MeanTensors
from shardtune.trainer.engine.snapshot import SavedTensors
from shardtune.trainer.export.export import main as export
from tests.support.runs import curve, events, tiny_recipe, train
from tests.support.stops import stop_after

Tensors = dict[str, torch.Tensor]
EMA = "train.ema_decay=0.9"


def exported(run_dir: Path, name: str) -> Tensors:
    return load_file(run_dir / "export" / name / "model.safetensors")


def results(run_dir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run_dir / RESULTS).read_text())
    return found


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def saved(checkpoint: Checkpoint) -> Tensors:
    """The whole weights of a checkpoint."""
    tensors, found = SavedTensors(checkpoint.files(WEIGHTS)), {}
    for name, shape in checkpoint.manifest.shapes.items():
        found[name] = torch.empty(tuple(shape), dtype=tensors.dtype(name))
        tensors.read(name, 0, found[name].view(-1))
    return found


@pytest.fixture(scope="module")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    assert all(train(tiny_recipe(tiny), folder, world_size=2)[0])
    return folder


@pytest.mark.parametrize("strategy", ["null", "zero3"])
def test_an_average_that_is_broken_off_in_its_middle_is_the_unbroken_one_and_trains_the_same(
    plain: Path, tiny: Path, tmp_path: Path, strategy: str
) -> None:
    recipe = tiny_recipe(tiny, EMA, f"engine.deepspeed={strategy}")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert all(train(recipe, whole, world_size=2)[0])
    assert not any(train(recipe, broken, world_size=2, before=stop_after(9))[0])
    assert all(train(recipe, broken, world_size=2)[0])
    assert results(broken) == results(whole)
    assert all(equal(exported(broken, name), exported(whole, name)) for name in ("best", "last"))
    for (_, loss, norm), (_, expected, expected_norm) in zip(curve(events(whole)), curve(events(plain)), strict=True):
        assert (loss, norm) == (pytest.approx(expected, rel=1e-4), pytest.approx(expected_norm, rel=1e-3))
    dev, raw_dev = ([event["loss"] for event in events(run, "eval")] for run in (whole, plain))
    assert all(abs(one - other) > 1e-4 for one, other in zip(dev, raw_dev, strict=True)), "the average is evaluated"


def test_what_is_exported_is_what_was_evaluated(tiny: Path, tmp_path: Path) -> None:
    assert all(train(tiny_recipe(tiny, EMA), tmp_path, world_size=2)[0])
    *_, last = complete_checkpoints(tmp_path / CHECKPOINTS)
    weights = saved(last)
    text = (last.path / "manifest.json").read_text()
    assert json.loads(text)["format"] == 3, "an older version would train the average"
    assert all(torch.equal(value, weights[name]) for name, value in exported(tmp_path, "last").items())
    assert "an exponential moving average" in (tmp_path / "export/best/README.md").read_text()


AVERAGE = ("checkpoint.average_last=3", "checkpoint.every_steps=2", "checkpoint.best_metric=loss")


def test_the_mean_of_the_last_checkpoints_is_the_best_model_if_dev_says_so(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, *AVERAGE, "optim.lr=2e-2", "optim.schedule=constant", "train.eval_every_steps=2")
    assert all(train(recipe, tmp_path, world_size=2)[0])
    found = results(tmp_path)
    mean = found["average_last"]
    assert mean["steps"] == [14, 16, 18]
    every = [saved(Checkpoint(tmp_path / CHECKPOINTS / f"step-{step}")) for step in mean["steps"]]
    expected = {name: torch.stack([one[name].double() for one in every]).mean(0).float() for name in every[0]}
    dev = [event["loss"] for event in events(tmp_path, "eval") if event["split"] == "dev"]
    assert len(dev) == 9, "the mean is no step of the curve"
    assert mean["is_best"] == (mean["dev"]["loss"] < min(dev)) and mean["is_best"]
    assert found["dev"] == mean["dev"] and found["best_step"] == 18
    best = exported(tmp_path, "best")
    assert all(torch.allclose(value, expected[name], rtol=0, atol=1e-7) for name, value in best.items())
    assert not equal(best, exported(tmp_path, "last"))
    assert json.loads((tmp_path / "export/best/evaluation.json").read_text()) == mean["dev"]
    assert "best step   the mean of 14, 16, 18: lowest loss on dev" in finished_message(recipe, tmp_path)
    assert "the mean of those after steps 14, 16, 18" in (tmp_path / "export/best/README.md").read_text()
    (tmp_path / "config.yaml").write_text(recipe.model_dump_json())
    assert export([str(tmp_path), f"--out={tmp_path}/again"]) == 0
    assert equal(load_file(tmp_path / "again/model.safetensors"), best)


def test_a_mean_that_is_not_better_changes_nothing(tiny: Path, tmp_path: Path) -> None:
    """Of the first steps, while the loss still falls, the last is better than the mean."""
    recipe = tiny_recipe(tiny, "train.max_steps=6", "train.eval_every_steps=2", "optim.schedule=constant")
    assert all(train(recipe, tmp_path / "plain", world_size=1)[0])
    changes = {"average_last": 3, "every_steps": 2, "best_metric": "loss"}
    averaged = recipe.model_copy(update={"checkpoint": recipe.checkpoint.model_copy(update=changes)})
    assert all(train(averaged, tmp_path / "averaged", world_size=1)[0])
    found = results(tmp_path / "averaged")
    assert not found["average_last"]["is_best"] and found["best_step"] == 6
    (notice,) = [e["text"] for e in events(tmp_path / "averaged", "notice") if "average_last" in e["text"]]
    assert notice.startswith("the mean of the checkpoints of steps 2, 4, 6 has loss ") and "it is dropped" in notice
    assert equal(exported(tmp_path / "averaged", "best"), exported(tmp_path / "plain", "last"))
    assert not (tmp_path / "averaged/checkpoints/averaged").exists()


def test_too_few_checkpoints_are_not_averaged(tiny: Path, tmp_path: Path) -> None:
    assert all(train(tiny_recipe(tiny, "checkpoint.average_last=3", "train.max_steps=2"), tmp_path, world_size=1)[0])
    assert "average_last" not in results(tmp_path)
    texts = [event["text"] for event in events(tmp_path, "notice")]
    assert "checkpoint.average_last: there is only 1 intact checkpoint; nothing is averaged" in texts


def give_nan_for_the_mean() -> None:
    """nan where nothing is reported: what is measured of the mean."""

    def measure(*_: Any) -> dict[str, Any]:
        return {"loss": math.nan, "accuracy": 1.0}

    evaluate = Evaluator.evaluate
    real = Evaluator.measure

    def evaluate_really(self: Evaluator, *words: Any) -> dict[str, Any]:
        Evaluator.measure = real  # type: ignore[method-assign]
        metrics = evaluate(self, *words)
        Evaluator.measure = measure  # type: ignore[method-assign,assignment]
        return metrics

    Evaluator.measure = measure  # type: ignore[method-assign,assignment]
    Evaluator.evaluate = evaluate_really  # type: ignore[method-assign]


def test_a_mean_that_computes_nan_is_worse_than_anything(tiny: Path, tmp_path: Path) -> None:
    words = ("checkpoint.average_last=2", "checkpoint.every_steps=2", "train.max_steps=4")
    assert all(train(tiny_recipe(tiny, *words), tmp_path, world_size=1, before=give_nan_for_the_mean)[0])
    assert not results(tmp_path)["average_last"]["is_best"]
    texts = [event["text"] for event in events(tmp_path, "notice")]
    assert any("has accuracy no number on dev, not better than the best model" in text for text in texts)


def test_means_need_a_dev_split() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint.average_last: no data.dev to evaluate on"):
        tiny_recipe(Path("/"), "checkpoint.average_last=2", "data.dev=null")


class Given(SavedTensors):
    """A tensor in memory, as if it were saved."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__(())
        self._values = values

    def read(self, name: str, start: int, into: torch.Tensor) -> None:
        into.copy_(self._values[start : start + into.numel()])


def test_a_mean_is_computed_in_parts_and_of_whole_numbers_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardtune.trainer.checkpoint.mean.READ_ELEMENTS", 3)
    mean = MeanTensors([Given(torch.arange(8.0)), Given(torch.ones(8)), Given(torch.full((8,), 4.0))])
    into = torch.empty(7)
    mean.read("x", 1, into)
    assert torch.equal(into, (torch.arange(1.0, 8.0) + 5) / 3)
    counts = torch.empty(2, dtype=torch.int64)
    MeanTensors([Given(torch.tensor([1, 2])), Given(torch.tensor([5, 6]))]).read("x", 0, counts)
    assert counts.tolist() == [5, 6]
