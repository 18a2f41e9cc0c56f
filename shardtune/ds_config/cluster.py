"""What a ds_config's "auto" depends on besides the recipe: how many ranks share a machine, and their link."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

LATENCY_SHARE = 0.05
"""Largest share of an exchange's time that may be latency."""
MOST_PERSISTENT = 100_000
"""Elements up to which a weight may stay whole under ZeRO-3 because of a link: DeepSpeed's default (0.19.8)."""


@dataclass(frozen=True)
class Link:
    """A kind of link. Kinds, not the speed measured: that differs from start to start, and sizes should not."""

    name: str
    least_gb_per_s: float
    """Speed of an exchange between two ranks from which on a link is taken for one of this kind."""
    bytes_per_s: float
    latency_s: float
    """Of one hop of a large message; NCCL's own estimate (2.19, src/graph/tuning.cc, Simple), but for TCP."""


LINKS = (
    Link("NVLink", 60.0, 200e9, 4e-6),
    Link("InfiniBand, RoCE or PCIe", 4.0, 25e9, 14e-6),
    Link("TCP", 0.0, 1.25e9, 50e-6),
)


@dataclass(frozen=True)
class Cluster:
    """The ranks of a job, as far as they matter for a ds_config."""

    world_size: int
    ranks_per_node: int
    """Largest number of adjacent ranks, equal everywhere, of which all are on one machine."""
    link: Link | None
    """The usual link between machines, or else within one. None between CPU ranks: sizes do not depend on it there."""

    @property
    def secondary_partition(self) -> int:
        """zero_hpz_partition_size: the ranks of a machine, or 1 (no secondary partition) if it would be of no use."""
        return self.ranks_per_node if 1 < self.ranks_per_node < self.world_size else 1


def ranks_per_node(hosts: Sequence[str]) -> int:
    """Cluster.ranks_per_node of these ranks; `hosts` names the machine of each, in rank order."""
    return math.gcd(*(len(list(ranks)) for _, ranks in groupby(hosts)))


def kind_of(gb_per_s: float) -> Link:
    """The kind of a link over which two ranks exchange data at this rate."""
    return next(link for link in LINKS if gb_per_s >= link.least_gb_per_s)


def bucket_bytes(link: Link, world_size: int) -> int:
    """Bytes of an all-reduce of which LATENCY_SHARE is latency; whole MiB.

    A tree passes 2 log2(ranks) hops, each link carries every byte about twice (Sanders et al., 2009, as NCCL has it):
    latency / transfer = log2(ranks) x latency x bytes_per_s / bytes.
    """
    hops = max(1.0, math.log2(world_size))
    return math.ceil(hops * link.latency_s * link.bytes_per_s / LATENCY_SHARE / 2**20) * 2**20


def persistent_elements(link: Link, bytes_per_element: int) -> int:
    """Elements up to which a weight stays whole under ZeRO-3: sending it takes no longer than the latency of asking."""
    return min(MOST_PERSISTENT, int(link.latency_s * link.bytes_per_s) // bytes_per_element)
