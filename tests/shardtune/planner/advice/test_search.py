"""The advised setting is the fastest of all that fit, learns the same, and never fails to fit."""

from itertools import product
from typing import Any

import pytest

from shardtune.planner.advice.advice import advise
from shardtune.planner.advice.machines import LAYOUTS, nodes_that_help, scaling_curve, smallest_machine
from shardtune.planner.advice.search import Candidate, Question, search
from shardtune.planner.advice.settings import STRATEGIES, Setting, micro_batches_for, strategies_for
from shardtune.planner.forecast.forecast import GIB, forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.hardware import find_gpu, known_gpus
from shardtune.planner.job import Cluster
from shardtune.planner.model_shape import shape_of_sizes
from shardtune.recipe.load import learning_hash, parse_recipe

RECIPE = """
task: {kind: language_modeling}
model: {path: x}
data: {train: x.txt, max_tokens: 1024}
train: {global_batch_size: 96, num_epochs: 1}
"""


def _question(*overrides: str, billions: float = 8, layers: int = 32, **more: Any) -> Question:
    shape = shape_of_sizes(billions * 1e9, layers)
    return Question(parse_recipe(RECIPE, overrides), shape, DataSize(9600, 600), **more)


def _cluster(gpu: str = "a100-80g", nodes: int = 1, gpus_per_node: int = 8) -> Cluster:
    return Cluster(gpu=find_gpu(gpu), num_nodes=nodes, gpus_per_node=gpus_per_node)


@pytest.mark.parametrize(
    ("gpu", "nodes", "overrides", "billions"),
    [
        ("a100-80g", 2, (), 8),
        ("l4", 1, (), 8),
        ("rtx-4090", 1, ("model.lora={}",), 8),
        ("v100", 1, (), 1),
        ("h100", 4, ("engine.compile=full",), 8),
        ("a100-40g", 1, ("train.micro_batch_tokens=5000",), 3),
    ],
)
def test_nothing_that_fits_is_faster(gpu: str, nodes: int, overrides: tuple[str, ...], billions: float) -> None:
    question, cluster = _question(*overrides, billions=billions), _cluster(gpu, nodes)
    host_bytes = 8 * 128 * GIB
    times = {}
    budgets = [*micro_batches_for(question.recipe, cluster, question.data)]
    for strategy, tokens, checkpointing in product(STRATEGIES, budgets, (False, True)):
        if strategy not in strategies_for(question.recipe, cluster):
            continue
        setting = Setting(strategy, tokens, checkpointing)
        found = forecast(setting.applied_to(question.recipe), question.shape, cluster, question.data)
        if found.memory.used * 1.08 <= cluster.gpu.memory_gib * GIB and sum(found.host.values()) <= host_bytes:
            times[setting] = found.step.total_s
    searched = search(question, cluster)
    assert searched.best is not None
    assert times[searched.best.setting] == min(times.values())
    assert searched.num_tried >= len(times)
    assert {one.setting for one in searched.others} <= set(times)


def test_the_step_is_the_same_and_so_is_what_is_learned() -> None:
    question, cluster = _question(), _cluster(nodes=2)
    searched = search(question, cluster)
    assert searched.best is not None
    for one in (searched.best, *searched.others, *searched.too_large):
        planned = one.forecast.planned
        assert planned.tokens_per_step == 96 * 600
        assert planned.num_steps == 100
        batch = planned.average.batch
        # With the padding of packed rows, all ranks compute just the rows of a step.
        assert batch.rows * batch.tokens * batch.num_micro_batches * 16 == pytest.approx(96 * 600 / 0.97)
        assert learning_hash(one.setting.applied_to(question.recipe)) == learning_hash(question.recipe)


def test_the_overrides_make_the_setting() -> None:
    question = _question()
    searched = search(question, _cluster())
    assert searched.best is not None
    for one in (searched.best, *searched.others):
        pasted = parse_recipe(RECIPE, one.setting.overrides.split())
        assert pasted == one.setting.applied_to(question.recipe)


def _all(question: Question, cluster: Cluster) -> list[Candidate]:
    advice = advise(question, cluster, known_gpus())
    points = [point.best for point in advice.curve]
    changed = [one.searched.best for one in advice.changes]
    found = [advice.best, *advice.searched.others, advice.smallest, *changed, *points]
    return [one for one in found if one is not None]


@pytest.mark.parametrize(("gpu", "billions", "layers"), [("l4", 8, 32), ("h100", 70, 80), ("v100", 1, 24)])
def test_nothing_is_advised_that_does_not_fit(gpu: str, billions: float, layers: int) -> None:
    advised = _all(_question(billions=billions, layers=layers), _cluster(gpu))
    assert advised
    for one in advised:
        assert one.forecast.verdict == "fits"
        assert sum(one.forecast.host.values()) <= one.forecast.cluster.gpus_per_node * 128 * GIB


def test_a_node_with_little_memory_is_not_offloaded_to() -> None:
    cluster = _cluster("l4", gpus_per_node=1)
    with_much, with_little = (search(_question(billions=3, host_limit=gib * GIB), cluster) for gib in (256, 32))
    assert with_much.best is not None
    assert with_much.best.setting.deepspeed in ("zero2_offload", "zero3_offload")
    assert with_little.best is None
    assert with_little.nearest in with_little.too_large


def test_the_same_question_has_the_same_answer() -> None:
    first, second = (advise(_question(), _cluster(nodes=2), known_gpus()) for _ in range(2))
    assert first.describe() == second.describe()
    assert first.as_json() == second.as_json()


def test_a_70_b_plan_takes_few_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forecast takes half a millisecond; 20,000 would be 10 s."""
    from shardtune.planner.advice import search as module

    num = 0

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal num
        num += 1
        return forecast(*arguments, **options)

    monkeypatch.setattr(module, "forecast", counting)
    question = _question("train.global_batch_size=4096", billions=70, layers=80)
    advise(question, _cluster("h100", nodes=8), known_gpus())
    assert 500 < num < 8000


def test_hpz_is_for_several_nodes_and_other_keys_rule_out_strategies() -> None:
    recipe = _question().recipe
    assert "zero3_hpz" not in strategies_for(recipe, _cluster())
    assert "zero3_hpz" in strategies_for(recipe, _cluster(nodes=2))
    assert "zero3_hpz" not in strategies_for(recipe, _cluster(nodes=2, gpus_per_node=1))
    assert None not in strategies_for(_question("engine.precision=fp16").recipe, _cluster())
    compiled = strategies_for(_question("engine.compile=full").recipe, _cluster(nodes=2))
    assert compiled == [None, "zero0", "zero1", "zero2", "zero2_offload"]


def test_the_smallest_machine_has_the_fewest_gpus_and_then_the_least_memory() -> None:
    question = _question(billions=3)
    smallest = smallest_machine(question, known_gpus())
    assert smallest is not None
    cluster = smallest.forecast.cluster
    chosen = LAYOUTS.index((cluster.num_nodes, cluster.gpus_per_node))
    for nodes, per_node in LAYOUTS[: chosen + 1]:
        for gpu in known_gpus():
            is_larger = (nodes, per_node) == LAYOUTS[chosen] and gpu.memory_gib >= cluster.gpu.memory_gib
            other = Cluster(gpu=gpu, num_nodes=nodes, gpus_per_node=per_node)
            assert is_larger or search(question, other).best is None


def test_a_machine_that_is_large_enough_may_not_exist() -> None:
    assert smallest_machine(_question(billions=70), [find_gpu("t4")]) is None
    assert smallest_machine(_question("engine.precision=bf16"), [find_gpu("v100")]) is None


def test_the_scaling_curve_ends_where_more_nodes_do_not_help() -> None:
    question, cluster = _question(), _cluster(nodes=6)
    curve = scaling_curve(question, cluster)
    nodes = [point.cluster.num_nodes for point in curve]
    assert nodes[:5] == [1, 2, 4, 6, 8]
    times = {point.cluster.num_nodes: point.best.step_s for point in curve if point.best}
    assert curve[0].efficiency == 1
    for point in curve[1:]:
        assert point.efficiency == pytest.approx(times[1] / times[point.cluster.num_nodes] / point.cluster.num_nodes)
    limit = nodes_that_help(curve)
    assert limit in nodes
    for before, after in zip([1, 2, 4], [2, 4, 8], strict=True):
        assert after > limit or times[after] <= 0.8 * times[before]


def test_without_a_fit_there_is_no_number_of_nodes() -> None:
    curve = scaling_curve(_question(billions=70, layers=80, host_limit=16 * GIB), _cluster("t4"))
    assert all(point.best is None and point.efficiency is None for point in curve)
    assert nodes_that_help(curve) is None
