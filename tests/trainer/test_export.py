"""The exported model is the trained one, and loads with transformers alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.support.runs import events, tiny_recipe, train
from tests.support.tiny import GOOD
from trainer.data.source import read_rows

SPLIT = "test"


@pytest.mark.parametrize("stage", [2, 3])
def test_a_pipeline_of_the_best_model_scores_what_the_run_reported(tiny: Path, tmp_path: Path, stage: int) -> None:
    train(tiny_recipe(tiny, f"engine.deepspeed=zero{stage}", "optim.lr=1e-2"), tmp_path, world_size=2)
    classify: Any = transformers.pipeline("text-classification", model=str(tmp_path / "export" / "best"))
    rows = read_rows(tiny / f"{SPLIT}.jsonl", {})
    found = [answer["label"] for answer in classify([row.values["text"] for row in rows])]
    accuracy = sum(label == row.values["label"] for label, row in zip(found, rows, strict=True)) / len(rows)
    reported = next(event for event in events(tmp_path, "eval") if event["split"] == SPLIT)
    assert accuracy == pytest.approx(reported["accuracy"])


def test_label_names_are_in_the_models_config(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=1)
    for name in ("best", "last"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "export" / name)
        assert model.config.id2label == {0: "negative", 1: "positive"}
        assert model.config.label2id == {"negative": 0, "positive": 1}
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "export" / "last")(GOOD[0])["input_ids"][0] == 2


def test_every_weight_moved_from_where_it_was_pretrained(tiny: Path, tmp_path: Path) -> None:
    train(tiny_recipe(tiny), tmp_path, world_size=1)
    trained = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "export" / "last").bert
    before = transformers.AutoModel.from_pretrained(tiny / "encoder").state_dict()
    moved = {name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == set(before)
