"""What a strategy leaves to the cluster: secondary partitions of ZeRO++, sizes by the link, and what is refused."""

from typing import Any

import pytest

from shardtune.ds_config.cluster import LINKS, Cluster, Link, bucket_bytes, kind_of, ranks_per_node
from shardtune.ds_config.resolve import ds_config_of, load_ds_config, named_precisions, resolve_ds_config
from shardtune.errors import ConfigError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.schema import Recipe

NVLINK, INFINIBAND, TCP = LINKS


def recipe(*overrides: str) -> Recipe:
    text = "task: {kind: classification}\nmodel: {path: x/y}\ndata: {train: hf:o/n}\nengine: {precision: bf16}"
    return parse_recipe(text, overrides)


def zero_of(strategy: str, cluster: Cluster | None, hidden_size: int | None = 64, *overrides: str) -> dict[str, Any]:
    ours = recipe(f"engine.deepspeed={strategy}", "engine.precision=auto", *overrides)
    config = ds_config_of(ours, hidden_size=hidden_size, cluster=cluster)
    assert config is not None
    zero: dict[str, Any] = config["zero_optimization"]
    return zero


@pytest.mark.parametrize(
    ("hosts", "size"),
    [
        ("aaaabbbb", 4),
        ("aabbccdd", 2),
        ("aaaaaaaa", 8),
        ("abababab", 1),  # ranks were distributed in turn
        ("aaaaaabbbb", 2),
        ("aaabb", 1),
        ("a", 1),
    ],
)
def test_the_ranks_of_a_node_are_adjacent_and_equally_many_everywhere(hosts: str, size: int) -> None:
    assert ranks_per_node(hosts) == size


@pytest.mark.parametrize("strategy", ["zero3_hpz", "zero3_zeropp"])
@pytest.mark.parametrize(("ranks", "size", "written"), [(16, 8, 8), (8, 8, 1), (5, 1, 1), (1, 1, 1)])
def test_a_secondary_partition_spans_a_machine_if_there_are_several(
    strategy: str, ranks: int, size: int, written: int
) -> None:
    assert zero_of(strategy, Cluster(ranks, size, None))["zero_hpz_partition_size"] == written


def test_before_the_ranks_are_known_there_is_no_secondary_partition() -> None:
    assert "zero_hpz_partition_size" not in zero_of("zero3_hpz", None)


def faults(zero: dict[str, Any], *overrides: str, cluster: Cluster | None = None, **top: Any) -> list[str]:
    with pytest.raises(ConfigError) as error:
        base = {"zero_optimization": zero, **top}
        resolve_ds_config(base, recipe("engine.deepspeed=my.json", *overrides), hidden_size=8, cluster=cluster)
    return str(error.value).splitlines()


def test_a_partition_that_does_not_divide_the_ranks_is_refused() -> None:
    asked = {"stage": 3, "zero_hpz_partition_size": 4}
    assert faults(asked, cluster=Cluster(6, 2, None)) == [
        "my.json: zero_optimization.zero_hpz_partition_size: the 6 ranks cannot be divided into groups of 4; write "
        '"auto", which takes the ranks of a machine'
    ]
    for ranks in (2, 4, 8):  # DeepSpeed takes all ranks if there are fewer
        resolve_ds_config({"zero_optimization": asked}, recipe(), hidden_size=8, cluster=Cluster(ranks, 2, None))


@pytest.mark.parametrize(
    "asked", [{"zero_hpz_partition_size": 4}, {"zero_quantized_weights": True}, {"zero_quantized_gradients": True}]
)
def test_what_only_stage_3_does_is_refused_in_the_others(asked: dict[str, Any]) -> None:
    (key,) = asked
    assert f"my.json: zero_optimization.{key}: needs stage 3, got stage 2" in faults({"stage": 2, **asked})


@pytest.mark.parametrize(
    ("overrides", "top"),
    [
        (("engine.precision=bf16",), {}),
        (("engine.precision=auto",), {}),
        (("engine.precision=fp16", "engine.communication_data_type=fp32"), {}),
        (("engine.precision=fp16",), {"communication_data_type": "fp32"}),
    ],
)
def test_gradients_that_deepspeeds_kernel_would_garble_are_refused(
    overrides: tuple[str, ...], top: dict[str, Any]
) -> None:
    (line,) = faults({"stage": 3, "zero_quantized_gradients": True}, *overrides, **top)
    assert line == (
        "my.json: zero_optimization.zero_quantized_gradients: DeepSpeed can quantize gradients in fp16 only, and "
        "garbles others; set engine.precision=fp16 and engine.communication_data_type=auto, or turn it off here"
    )


def test_all_of_zeropp_computes_in_fp16_whatever_the_gpus_could_do() -> None:
    ours = recipe("engine.deepspeed=zero3_zeropp", "engine.precision=auto")
    assert named_precisions(ours) == ("fp16",)
    assert load_ds_config("zero3_qwz").get("fp16") is None


@pytest.mark.parametrize(
    ("gb_per_s", "link"),
    [(350.0, NVLINK), (90.0, NVLINK), (45.0, INFINIBAND), (6.0, INFINIBAND), (1.1, TCP), (0.01, TCP)],
)
def test_a_link_is_known_by_its_speed(gb_per_s: float, link: Link) -> None:
    assert kind_of(gb_per_s) is link


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("world_size", [2, 8, 64, 512])
def test_a_bucket_takes_so_long_that_latency_is_a_twentieth_of_it(link: Link, world_size: int) -> None:
    hops = len(f"{world_size:b}") - 1
    num_bytes = bucket_bytes(link, world_size)
    latency, transfer = 2 * hops * link.latency_s, 2 * num_bytes / link.bytes_per_s
    assert 0.025 < latency / transfer <= 0.05
    assert num_bytes % 2**20 == 0


def test_sizes_grow_with_the_link_and_are_those_of_transformers_without_one() -> None:
    names = ("reduce_bucket_size", "stage3_prefetch_bucket_size", "stage3_param_persistence_threshold")
    sizes = {
        link and link.name: [zero_of("zero3", Cluster(16, 8, link), hidden)[name] for name in names]
        for link, hidden in ((None, 1000), (NVLINK, 1000), (TCP, 1000))
    }
    assert sizes[None] == [1_000_000, 900_000, 10_000]
    assert sizes[NVLINK.name] == [62 * 2**20 // 2, int(0.9 * 62 * 2**20 // 2), 100_000]
    assert sizes[TCP.name] == [5 * 2**20 // 2, int(0.9 * 5 * 2**20 // 2), 31_250]
    assert zero_of("zero3", Cluster(16, 8, TCP), 4096)["reduce_bucket_size"] == 4096**2
    assert zero_of("zero3", Cluster(16, 8, TCP), None)["reduce_bucket_size"] == 5 * 2**20 // 2
    exact = zero_of("zero3", Cluster(16, 8, TCP), 8, "engine.precision=fp32")
    assert exact["reduce_bucket_size"] == 5 * 2**20 // 4
