"""Which ranks share a machine and how fast their links are, for the ds_config and the buckets."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from shardtune.ds_config.cluster import Cluster, Link, bucket_bytes, kind_of, ranks_per_node
from shardtune.ds_config.fill import PARTITION
from shardtune.ds_config.nested import get_value
from shardtune.ds_config.resolve import load_ds_config, source_of
from shardtune.recipe.schema import Recipe
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.preflight import link_speed
from shardtune.trainer.preflight.probe import host_name


def look_at_cluster(ranks: Ranks) -> Cluster:
    """Collective: the same on all ranks."""
    hosts = ranks.gather(host_name())
    link = None
    if ranks.device.type == "cuda" and ranks.world_size > 1:
        link = usual_link(link_speed.measure_neighbors(ranks, hosts))
    return Cluster(ranks.world_size, ranks_per_node(hosts), link)


def usual_link(links: list[link_speed.Link]) -> Link:
    """The kind of most links between machines, or, if there is only one machine, of those within it."""
    between = [link for link in links if not link.is_inside]
    return kind_of(median(link.gb_per_s for link in between or links))


def describe_cluster(recipe: Recipe, ds_config: Mapping[str, Any] | None, cluster: Cluster) -> list[str]:
    """A line on each thing that the cluster has decided: the sizes of buckets, and zero_hpz_partition_size."""
    notes = []
    if cluster.link is not None:
        size = bucket_bytes(cluster.link, cluster.world_size) // 2**20
        notes.append(f"{cluster.link.name} between ranks: {size} MiB are exchanged at once where the size is left open")
    if ds_config is not None and _asks_for_partition(recipe):
        notes.append(_on_partition(source_of(recipe), ds_config["zero_optimization"][PARTITION], cluster))
    return notes


def _asks_for_partition(recipe: Recipe) -> bool:
    assert recipe.engine.deepspeed is not None, "a recipe without DeepSpeed has no ds_config"
    asked: object = get_value(load_ds_config(recipe.engine.deepspeed), f"zero_optimization.{PARTITION}")
    return asked == "auto"


def _on_partition(source: str, size: int, cluster: Cluster) -> str:
    start, ranks = f'{source}: {PARTITION}: "auto" is {size}', cluster.world_size
    if size > 1:
        return f"{start}: every {size} ranks, which share a machine, keep a second copy of the weights"
    where = "one machine" if cluster.ranks_per_node == ranks else "machines without equally many neighbors"
    return f"{start}, because the {ranks} ranks are on {where}: weights are sharded as by zero3"
