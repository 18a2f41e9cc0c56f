"""report.profile_steps traces these steps on rank 0, and no others."""

import gzip
import json
from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from tests.support.runs import events, tiny_recipe, train
from tests.support.stops import stop_after


def traced_steps(path: Path) -> int:
    """How often a trace has the optimizer's step."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        names = [event.get("name", "") for event in json.load(file)["traceEvents"]]
    return sum(name.startswith("Optimizer.step#") for name in names)


def test_the_named_steps_are_traced_and_said(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "report.profile_steps=[2, 4]", "train.max_steps=6", "engine.deepspeed=null")
    train(recipe, tmp_path, world_size=2)
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "steps-2-4.json.gz" and traced_steps(path) == 3
    (notice,) = [event["text"] for event in events(tmp_path, "notice") if "trace" in event["text"]]
    assert str(path) in notice


def test_a_trace_that_a_stop_breaks_off_is_written_and_that_of_the_rest_is_not(tiny: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(tiny, "report.profile_steps=[1, 5]", "train.max_steps=6", "engine.deepspeed=null")
    train(recipe, tmp_path, world_size=1, before=stop_after(2))
    train(recipe, tmp_path, world_size=1)
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == "steps-1-2.json.gz" and traced_steps(path) == 2


def test_steps_in_the_wrong_order_are_refused(tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"report\.profile_steps=.*: the first step, 4, comes after the last, 2"):
        tiny_recipe(tiny, "report.profile_steps=[4, 2]")
