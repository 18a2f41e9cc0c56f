"""The values of "auto" in zero_optimization that depend on the model and on the cluster.

Each function changes the config in place.
"""

from collections.abc import Iterator
from typing import Any

from shardtune.ds_config.cluster import Cluster, bucket_bytes, persistent_elements
from shardtune.recipe.explain import shown

PARTITION = "zero_hpz_partition_size"


def fill_sizes(
    config: dict[str, Any], hidden_size: int | None, cluster: Cluster | None, *, bytes_per_element: int
) -> None:
    """Fills the sizes of buckets, in elements, and removes those of which nothing is known.

    By the formulas of transformers.integrations.deepspeed, so that a ds_config means the same in both, or more if the
    link is used better so. What is learned does not depend on them.
    """
    zero, hidden = config["zero_optimization"], hidden_size
    link = None if cluster is None else cluster.link
    in_bucket = persistent = 0
    if cluster is not None and link is not None:
        in_bucket = bucket_bytes(link, cluster.world_size) // bytes_per_element
        persistent = persistent_elements(link, bytes_per_element)
    for key, size in (
        ("reduce_bucket_size", max(hidden * hidden, in_bucket) if hidden else in_bucket),
        ("stage3_prefetch_bucket_size", int(0.9 * max(hidden * hidden, in_bucket)) if hidden else in_bucket),
        ("stage3_param_persistence_threshold", max(10 * hidden, persistent) if hidden else persistent),
    ):
        if zero.get(key) == "auto":
            if size:
                zero[key] = size
            else:
                del zero[key]


def fill_partition(zero: dict[str, Any], cluster: Cluster | None) -> Iterator[str]:
    """Fills zero_hpz_partition_size; yields a fault for a number that the ranks cannot be divided by."""
    size = zero.get(PARTITION)
    if size == "auto":
        zero.pop(PARTITION)
        if cluster is not None:
            zero[PARTITION] = cluster.secondary_partition
    elif (
        isinstance(size, int)
        and size > 1
        and cluster is not None
        and cluster.world_size % min(size, cluster.world_size)
    ):
        yield (
            f"zero_optimization.{PARTITION}: the {cluster.world_size} ranks cannot be divided into groups of "
            f'{shown(size)}; write "auto", which takes the ranks of a machine'
        )
