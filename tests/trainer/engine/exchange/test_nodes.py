"""Which machines the ranks are on, and what is said about it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shardtune.ds_config.cluster import LINKS, Cluster
from shardtune.ds_config.resolve import ds_config_of
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.engine.exchange import nodes
from shardtune.trainer.engine.exchange.nodes import describe_cluster, look_at_cluster, usual_link
from shardtune.trainer.preflight.link_speed import Link, measure_neighbors
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe

NVLINK, INFINIBAND, TCP = LINKS


def links(*rates: tuple[str, float]) -> list[Link]:
    return [Link((0, 1), (hosts[0], hosts[1]), rate) for hosts, rate in rates]


def test_the_link_between_machines_counts_if_there_are_several() -> None:
    assert usual_link(links(("aa", 300.0), ("aa", 300.0), ("ab", 20.0), ("bb", 300.0))) is INFINIBAND
    assert usual_link(links(("aa", 300.0), ("aa", 20.0), ("aa", 280.0))) is NVLINK
    assert usual_link(links(("ab", 20.0), ("bc", 0.1), ("cd", 22.0))) is INFINIBAND, "one slow link is another matter"


def look(ranks: Ranks) -> tuple[Cluster, list[tuple[int, int]]]:
    nodes.host_name = lambda: "ab"[ranks.rank // 2]  # type: ignore[attr-defined]
    return look_at_cluster(ranks), [link.ranks for link in measure_neighbors(ranks, "aabb"[: ranks.world_size])]


def test_cpu_ranks_keep_the_sizes_of_one_machine_whatever_their_links() -> None:
    assert run_ranks(look, world_size=4) == [(Cluster(4, 2, None), [(0, 1), (1, 2), (2, 3)])] * 4
    assert run_ranks(look, world_size=1) == [(Cluster(1, 1, None), [])]


@pytest.mark.parametrize(
    ("cluster", "text"),
    [
        (Cluster(16, 8, None), "8: every 8 ranks, which share a machine, keep a second copy of the weights"),
        (Cluster(8, 8, None), "1, because the 8 ranks are on one machine: weights are sharded as by zero3"),
        (
            Cluster(5, 1, None),
            "1, because the 5 ranks are on machines without equally many neighbors: weights are sharded as by zero3",
        ),
    ],
)
def test_what_became_of_auto_is_reported(cluster: Cluster, text: str) -> None:
    start = 'ds_configs/zero3_hpz.json: zero_hpz_partition_size: "auto" is '
    for strategy, expected in (("zero3_hpz", [start + text]), ("zero3", []), ("null", [])):
        recipe = tiny_recipe(Path("/"), f"engine.deepspeed={strategy}")
        assert describe_cluster(recipe, ds_config_of(recipe, hidden_size=8, cluster=cluster), cluster) == expected


def look_with_gpus(ranks: Ranks) -> tuple[Cluster, list[str]]:
    nodes.link_speed.measure_neighbors = lambda *_: links(("aa", 21.0))
    cluster = look_at_cluster(replace(ranks, device=torch.device("cuda")))
    return cluster, describe_cluster(tiny_recipe(Path("/"), "engine.deepspeed=null"), None, cluster)


def test_gpus_are_asked_for_their_links_and_the_size_is_reported() -> None:
    text = "InfiniBand, RoCE or PCIe between ranks: 7 MiB are exchanged at once where the size is left open"
    assert run_ranks(look_with_gpus) == [(Cluster(2, 2, INFINIBAND), [text])] * 2
    assert run_ranks(look_with_gpus, world_size=1) == [(Cluster(1, 1, None), [])]
