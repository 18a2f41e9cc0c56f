"""The table of machines has what a plan of each machine says."""

import pytest

from shardtune.planner.advice.matrix import describe, matrix
from shardtune.planner.advice.search import Question, search
from shardtune.planner.forecast.forecast import GIB, forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.model_shape import shape_of_sizes
from shardtune.recipe.load import parse_recipe

RECIPE = """
task: {kind: language_modeling}
model: {path: x}
data: {train: x.txt, max_tokens: 1024}
train: {global_batch_size: 64, micro_batch_tokens: 4096}
engine: {deepspeed: zero3, precision: bf16}
"""
QUESTION = Question(parse_recipe(RECIPE), shape_of_sizes(8e9, 32), DataSize(6400, 600), price=2.0)
CLUSTERS = [Cluster(gpu=find_gpu(gpu), num_nodes=nodes) for gpu in ("a100-80g", "l4", "v100") for nodes in (1, 2)]


def test_a_recipe_as_it_is_has_its_own_setting_in_each_cell() -> None:
    cells = matrix(QUESTION, CLUSTERS, is_searched=False)
    assert [cell.cluster for cell in cells] == CLUSTERS
    for cell in cells[:4]:
        alone = forecast(QUESTION.recipe, QUESTION.shape, cell.cluster, QUESTION.data, price=2.0)
        assert cell.candidate is not None
        assert cell.candidate.setting.overrides.startswith("engine.deepspeed=zero3 train.micro_batch_tokens=4096")
        assert cell.verdict == alone.verdict
        shown = cell.as_json()
        assert shown["run_seconds"] == pytest.approx(alone.run_s)
        assert shown["cost"] == pytest.approx(2 * shown["gpu_hours"])


def test_a_searched_cell_has_the_best_setting() -> None:
    for cell in matrix(QUESTION, CLUSTERS[:2], is_searched=True):
        assert cell.candidate == search(QUESTION, cell.cluster).best


def test_a_gpu_that_cannot_is_shown_with_the_reason_once() -> None:
    cells = matrix(QUESTION, CLUSTERS, is_searched=False)
    assert [cell.verdict for cell in cells[4:]] == ["cannot"] * 2
    lines = describe(cells, has_price=True).splitlines()
    assert len(lines) == 1 + 6 + 1
    assert lines[-1].startswith("engine.precision: v100-sxm2-32g has no tensor cores for bf16")
    assert len({len(line) for line in lines[:-1]}) == 1
    assert "cost" in lines[0]
    assert "cost" not in describe(cells, has_price=False)


def test_memory_of_a_node_counts_too() -> None:
    question = Question(QUESTION.recipe, QUESTION.shape, QUESTION.data, host_limit=32 * GIB)
    (cell,) = matrix(question, [Cluster(gpu=find_gpu("h200"))], is_searched=False)
    assert cell.verdict == "host memory"
