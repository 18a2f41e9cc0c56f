"""Which ranks share a machine and how fast their links are, for the ds_config and the buckets."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from shardtune.ds_config.cluster import Cluster, Link, kind_of, ranks_per_node
from shardtune.ds_config.fill import PARTITION
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
        link = usual_link(link_speed.measure_neighbours(ranks, hosts))
    return Cluster(ranks.world_size, ranks_per_node(hosts), link)


def usual_link(links: list[link_speed.Link]) -> Link:
    """The kind of most links between machines, or, if there is only one machine, of those within it."""
    between = [link for link in links if not link.is_inside]
    return kind_of(median(link.gb_per_s for link in between or links))


def describe_partition(recipe: Recipe, ds_config: Mapping[str, Any] | None, cluster: Cluster) -> str | None:
    """One line on what became of zero_hpz_partition_size: "auto"; None if nothing asks for it."""
    if ds_config is None or recipe.engine.deepspeed is None:
        return None
    asked = load_ds_config(recipe.engine.deepspeed).get("zero_optimization")
    if not isinstance(asked, dict) or asked.get(PARTITION) != "auto":
        return None
    size, start = ds_config["zero_optimization"][PARTITION], f'{source_of(recipe)}: {PARTITION}: "auto" is'
    if size > 1:
        return f"{start} {size}, the ranks of a machine: each machine keeps a second copy of the weights"
    where = (
        "one machine" if cluster.ranks_per_node == cluster.world_size else "machines without equally many neighbours"
    )
    return f"{start} 1, because the {cluster.world_size} ranks are on {where}: weights are sharded as by zero3"
