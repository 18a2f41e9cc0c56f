"""engine.deepspeed: auto stands for the fastest strategy that fits, and says why."""

import pytest

from shardtune.errors import ConfigError
from shardtune.planner.advice.choice import choose_on_cpus, choose_strategy
from shardtune.planner.advice.search import Question
from shardtune.planner.advice.settings import strategies_for, with_strategy
from shardtune.planner.forecast.forecast import GIB, forecast
from shardtune.planner.forecast.of_recipe import DataSize
from shardtune.planner.hardware import find_gpu
from shardtune.planner.job import Cluster
from shardtune.planner.model_shape import shape_of_sizes
from shardtune.recipe.load import parse_recipe

RECIPE = """
task: {kind: language_modeling}
model: {path: x, activation_checkpointing: true}
data: {train: x.txt, max_tokens: 1024}
train: {global_batch_size: 64}
engine: {deepspeed: auto}
"""


def _question(*overrides: str, billions: float = 8, host_gib: float | None = None) -> Question:
    shape = shape_of_sizes(billions * 1e9, 32 if billions > 2 else 16)
    host_limit = None if host_gib is None else host_gib * GIB
    return Question(parse_recipe(RECIPE, overrides), shape, DataSize(6400, 600), host_limit=host_limit)


@pytest.mark.parametrize(("gpu", "nodes"), [("a100-80g", 1), ("h100", 4), ("l4", 2)])
@pytest.mark.parametrize("budget", ["8192", "auto"])
def test_the_strategy_is_the_fastest_that_fits(gpu: str, nodes: int, budget: str) -> None:
    question = _question(f"train.micro_batch_tokens={budget}")
    cluster = Cluster(gpu=find_gpu(gpu), num_nodes=nodes)
    times = {}
    for strategy in strategies_for(question.recipe, cluster):
        found = forecast(with_strategy(question.recipe, strategy), question.shape, cluster, question.data)
        if found.verdict == "fits" and sum(found.host.values()) <= 1024 * GIB:
            times[strategy] = found.step.total_s
    choice = choose_strategy(question, cluster)
    assert times[choice.deepspeed] == min(times.values())
    assert f"engine.deepspeed: auto is {choice.deepspeed or 'null'}: " in str(choice)
    assert f"of {cluster.gpu.memory_gib:g} GiB per GPU" in choice.reason


def test_if_nothing_fits_the_leanest_is_taken_and_that_is_said() -> None:
    choice = choose_strategy(_question(billions=70), Cluster(gpu=find_gpu("a100-40g")))
    assert choice.deepspeed == "zero3_offload"
    assert "nothing fits by the planner" in choice.reason


def test_a_precision_that_the_gpu_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no tensor cores for bf16"):
        choose_strategy(_question("engine.precision=bf16"), Cluster(gpu=find_gpu("v100")))


@pytest.mark.parametrize(
    ("host_gib", "strategy", "reason"),
    [
        (256, None, "a whole copy fits"),
        (72, "zero1", "the lowest ZeRO stage that fits"),
        (60, "zero2", "the lowest ZeRO stage that fits"),
        (44, "zero3", "the lowest ZeRO stage that fits"),
        (8, "zero3", "nothing fits by the planner"),
    ],
)
def test_cpu_ranks_take_a_whole_copy_or_the_lowest_stage(host_gib: float, strategy: str | None, reason: str) -> None:
    choice = choose_on_cpus(_question(billions=1, host_gib=host_gib), num_ranks=4, num_nodes=1)
    assert choice.deepspeed == strategy
    assert choice.reason.startswith(reason)


def test_more_cpu_nodes_need_less_of_each() -> None:
    question = _question(billions=1, host_gib=30)
    assert "nothing fits" in choose_on_cpus(question, num_ranks=4, num_nodes=1).reason
    assert "nothing fits" not in choose_on_cpus(question, num_ranks=4, num_nodes=8).reason
