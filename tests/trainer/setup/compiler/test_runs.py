"""Whole runs with engine.compile: the same curve, the same files, and what was compiled is said."""

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from shardtune.trainer.setup.compiler import compile as compiling
from tests.support.runs import curve, tiny_recipe, train

SHORT = ("train.max_steps=4", "train.eval_every_steps=2", "data.test=null", "engine.deepspeed=null")


def without_compiler() -> None:
    """Dynamo's graphs run as they are."""
    compiling.BACKEND = "eager"


def run(tiny: Path, folder: Path, *overrides: str) -> list[dict[str, Any]]:
    folder.mkdir()
    ended, events = train(tiny_recipe(tiny, *SHORT, *overrides), folder, world_size=1, before=without_compiler)
    assert ended == [True]
    return events


def names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:  # type: ignore[no-untyped-call]
        return sorted(file.keys())


def test_a_compiled_run_has_the_curve_and_the_export_of_another(tiny: Path, tmp_path: Path) -> None:
    off, regional = (run(tiny, tmp_path / how, f"engine.compile={how}") for how in ("off", "regional"))
    for (step, loss, norm), (other_step, other_loss, other_norm) in zip(curve(off), curve(regional), strict=True):
        assert step == other_step
        assert other_loss == pytest.approx(loss, rel=1e-5) and other_norm == pytest.approx(norm, rel=1e-4)
    dev, other_dev = ([e["loss"] for e in events if e["event"] == "eval"] for events in (off, regional))
    assert other_dev == pytest.approx(dev, rel=1e-5)
    exported = "export/best/model.safetensors"
    assert names(tmp_path / "regional" / exported) == names(tmp_path / "off" / exported)
    notices = [event["text"] for event in regional if event["event"] == "notice"]
    (notice,) = [text for text in notices if text.startswith("engine.compile: ")]
    assert notice.startswith("engine.compile: 2 x BertLayer compiled in ")
    later = [event for event in regional if event["event"] == "compile"]
    assert sum(event["compilations"] for event in later) == 0, "all variants are compiled before the first step"
    assert not [event for event in regional if event["event"] == "alert"]
