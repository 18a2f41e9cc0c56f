"""The values of "auto" in zero_optimization that depend on the model and on the cluster.

Each function changes the config in place.
"""

from collections.abc import Iterator
from typing import Any

from shardtune.ds_config.cluster import Cluster, bucket_bytes, persistent_elements

PARTITION = "zero_hpz_partition_size"


def fill_sizes(
    config: dict[str, Any], hidden_size: int | None, cluster: Cluster | None, *, bytes_per_element: int
) -> None:
    """Fills the sizes of buckets, in elements, and removes those of which nothing is known.

    By the formulas of transformers.integrations.deepspeed, so that a ds_config means the same in both, or more if the
    link is used better so. What is learned does not depend on them.
    """
    zero, hidden = config["zero_optimization"], hidden_size or 0
    in_bucket = persistent = 0
    if cluster is not None and cluster.link is not None:
        in_bucket = bucket_bytes(cluster.link, cluster.world_size) // bytes_per_element
        persistent = persistent_elements(cluster.link, bytes_per_element)
    for key, size in (
        ("reduce_bucket_size", max(hidden * hidden, in_bucket)),
        ("stage3_prefetch_bucket_size", int(0.9 * max(hidden * hidden, in_bucket))),
        ("stage3_param_persistence_threshold", max(10 * hidden, persistent)),
    ):
        if zero.get(key) == "auto":
            zero[key] = size
            if not size:
                del zero[key]


def fill_partition(zero: dict[str, Any], cluster: Cluster | None) -> Iterator[str]:
    """Fills zero_hpz_partition_size; yields a fault for a number that the ranks cannot be divided by."""
    size = zero.get(PARTITION)
    if size == "auto":
        zero.pop(PARTITION)
        if cluster is not None:
            zero[PARTITION] = cluster.secondary_partition
    elif cluster is not None and isinstance(size, int) and size > 1:
        ranks = cluster.world_size
        if ranks % min(size, ranks):
            yield (
                f"zero_optimization.{PARTITION}: the {ranks} ranks cannot be divided into groups of {size}; write "
                '"auto", which takes the ranks of a machine'
            )
