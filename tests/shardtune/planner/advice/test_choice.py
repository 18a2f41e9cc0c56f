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


def chosen_on_cpus(num_nodes: int) -> dict[tuple[str | None, str], int]:
    """(strategy, why) -> the most GiB a node of 8 ranks at which it is chosen."""
    seen: dict[tuple[str | None, str], int] = {}
    for gib in range(2000, 50, -10):
        choice = choose_on_cpus(_question(host_gib=gib), "fp32", num_ranks=8, num_nodes=num_nodes)
        seen.setdefault((choice.deepspeed, choice.reason.split(",")[0]), gib)
    return seen


LOWEST = "the lowest ZeRO stage that fits"


def test_cpu_ranks_take_a_whole_copy_or_the_lowest_stage_that_fits() -> None:
    seen = chosen_on_cpus(num_nodes=2)
    assert [*seen] == [
        (None, "a whole copy fits"),
        ("zero1", LOWEST),
        ("zero2", LOWEST),
        ("zero3", LOWEST),
        ("zero3", "nothing fits by the planner"),
    ]
    # 16 bytes a parameter, in fp32, and 12 for the copy of a checkpoint over all ranks; the ranks get four fifths.
    assert (seen["zero1", LOWEST] + 10) * GIB * 0.8 > 8e9 * (8 * 16 + 12 / 2)


def test_ranks_that_share_the_memory_of_a_machine_share_the_weights_too_until_only_zero3_fits() -> None:
    seen = chosen_on_cpus(num_nodes=1)
    assert [*seen] == [
        (None, "a whole copy fits"),
        ("zero3", LOWEST),
        ("zero3", "nothing fits by the planner"),
    ]
    assert seen["zero3", LOWEST] < 8e9 * (8 * 16 + 12) / GIB


def test_more_cpu_nodes_need_less_of_each() -> None:
    question = _question(host_gib=200)
    assert "nothing fits" in choose_on_cpus(question, "fp32", num_ranks=8, num_nodes=1).reason
    assert "nothing fits" not in choose_on_cpus(question, "fp32", num_ranks=8, num_nodes=8).reason
