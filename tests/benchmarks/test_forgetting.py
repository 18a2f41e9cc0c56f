"""The tables and pictures of benchmarks.forgetting, and that its recipes are right."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from benchmarks.forgetting.__main__ import picture, rows_of, table
from benchmarks.forgetting.drawing import Axis
from benchmarks.forgetting.experiments import CHAT, ENCODER, EXPERIMENTS, REVIEWS, Experiment
from shardtune.recipe.load import parse_recipe


def results(learned: float, before: float, after: float, metric: str) -> dict[str, Any]:
    kept = {
        "metric": metric,
        "lower_is_better": False,
        "at_start": {metric: before},
        "best": {metric: after},
    }
    return {"test": {"f1": learned, "perplexity": learned}, "retention": {"reviews": kept, "words": kept}}


def found(experiment: Experiment) -> dict[str, list[Any]]:
    """What two seeds have found, of which one learns 0.02 more."""
    ways = {
        way.name: [results(0.5 + at / 10 + more, 0.9, 0.6 + at / 20, "accuracy") for more in (0.0, 0.02)]
        for at, way in enumerate(experiment.ways)
    }
    point = {
        "test": {"f1": 0.4, "perplexity": 2.0},
        "retention": {name: {"accuracy": 0.8} for name in ("reviews", "words")},
    }
    blend = {
        "retention": {name: {"metric": "accuracy"} for name in ("reviews", "words")},
        "alphas": [{"alpha": alpha, **point} for alpha in (0.0, 0.5, 1.0)],
    }
    return ways | {"blend": [blend, blend]}


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda each: each.name)
def test_each_way_is_a_row_and_a_point(experiment: Experiment) -> None:
    rows = rows_of(experiment, found(experiment))
    assert [row["name"] for row in rows] == [*(way.name for way in experiment.ways), "blend 0.5"]
    lines = table(experiment, rows).splitlines()
    assert len(lines) == 3 + len(rows) and "| before | | 0.9 |" in lines[2]
    assert lines[3].startswith(f"| {rows[0]['name']} | 0.51 (0.5 to 0.52) | 0.6 (0.6 to 0.6) |")
    drawn = ET.fromstring(picture(experiment, rows, found(experiment)))
    circles = [part for part in drawn.iter() if part.tag.endswith("circle")]
    assert len(circles) == len(rows)
    places = [(float(part.attrib["cx"]), float(part.attrib["cy"])) for part in circles[:2]]
    # More is kept further up; more is learned to the right, or less of a perplexity.
    assert places[1][1] < places[0][1]
    assert (places[1][0] > places[0][0]) != experiment.lower_is_better


def test_an_axis_of_equal_values_has_room() -> None:
    axis = Axis.over("x", [0.0, 0.0], lower_is_better=False)
    assert axis.place(0.0) == 0.5


def test_an_axis_has_round_numbers() -> None:
    assert Axis.over("x", [0.297, 0.864], lower_is_better=False).ticks() == pytest.approx([0.4, 0.6, 0.8])
    assert Axis.over("x", [9.8, 41.3], lower_is_better=True).ticks() == pytest.approx([10, 20, 30, 40])


@pytest.mark.parametrize("text", [ENCODER, REVIEWS, CHAT])
def test_the_recipes_are_right(text: str) -> None:
    assert parse_recipe(text.format(folder="runs", data="data", train="rows.jsonl")).job.ranks == 2
