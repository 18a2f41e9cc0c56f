"""A run with EWC learns the same on any ranks, resumed or not, and only from the weights that it began with."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support.runs import tiny_recipe, train
from tests.support.stops import stop_after
from tests.trainer.setup.regularize.test_fisher import earlier

assert earlier  # a fixture
OVERRIDES = ("train={global_batch_size: 4, max_steps: 4}", "regularize.l2_sp=1.0", "model.dropout=0")


def overrides(folder: Path, strategy: str) -> list[str]:
    ewc = f"regularize.ewc={{data: {folder}/earlier.jsonl, weight: 1000, rows: 4}}"
    labels = "task.label_names=[good, fine, bad]"
    return ["data.dev=null", "data.test=null", labels, *OVERRIDES, ewc, f"engine.deepspeed={strategy}"]


def numbers(events: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [(e["loss"], e["grad_norm"], e["penalty"]) for e in events if e["event"] == "step"]


def test_a_run_learns_the_same_on_other_ranks_and_resumed(earlier: Path, tmp_path: Path) -> None:
    one, other = (tiny_recipe(earlier, *overrides(earlier, strategy)) for strategy in ("null", "zero3"))
    whole = numbers(train(one, tmp_path / "whole", world_size=1)[1])
    assert whole[0][2] == 0 < whole[1][2]
    assert not any(train(other, tmp_path / "broken", world_size=2, before=stop_after(2))[0])
    ended, events = train(one, tmp_path / "broken", world_size=3)
    assert all(ended)
    for found, expected in zip(numbers(events), whole, strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-9)
    said = [event["text"] for event in events if event["event"] == "notice"]
    assert sum("Fisher information of 4 rows" in text for text in said) == 1, "it is computed once"


def test_a_run_is_held_near_the_weights_that_it_began_with_only(earlier: Path, tmp_path: Path) -> None:
    shutil.copytree(earlier, tmp_path / "copy")
    recipe = tiny_recipe(tmp_path / "copy", *overrides(tmp_path / "copy", "null"))
    assert not any(train(recipe, tmp_path / "run", world_size=1, before=stop_after(2))[0])
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "copy/encoder")
    with torch.no_grad():
        model.bert.pooler.dense.bias += 1
    model.save_pretrained(tmp_path / "copy/encoder")
    with pytest.raises(AssertionError, match=r"had when it began \(regularize\), and model.safetensors differs now"):
        train(recipe, tmp_path / "run", world_size=1)
