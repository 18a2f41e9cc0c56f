"""Seconds of collectives: how many bytes go over which link, and how long the first of them takes."""

import math
from dataclasses import dataclass

from shardtune.planner.constants import Constants
from shardtune.planner.frozen import Frozen
from shardtune.planner.job import Cluster, Job
from shardtune.planner.model_shape import ModelShape

HOP_S = {"link": 3.4e-6, "network": 14e-6}
"""Latency of a step of a ring over NVLink or PCIe, and between nodes (NCCL, src/graph/tuning.cc: hwLat, Simple)."""


@dataclass(frozen=True)
class Traffic:
    """The collectives of one kind in a step of a rank."""

    name: str
    num: float
    """How many collectives."""
    num_bytes: float
    """Bytes of the whole tensors of all of them together, before they are divided among the ranks."""
    passes: float = 1.0
    """How often they go around: 1 for gathering and reduce-scatter, 2 for an all-reduce."""
    ranks: int | None = None
    """How many ranks take part, all of a node; None for all ranks."""


def collective_seconds(traffic: Traffic, cluster: Cluster, constants: Constants) -> float:
    """Seconds of these collectives on an idle machine.

    Each rank sends (N - 1) / N of a whole tensor around the ring; between nodes all of a node's ranks share its
    network (NCCL lays as many rings as there are adapters).
    """
    world, nodes = cluster.world_size, cluster.num_nodes
    if traffic.ranks is not None:
        world, nodes = min(world, traffic.ranks), 1
    if world == 1:
        return 0.0
    share = (world - 1) / world
    link = traffic.num_bytes * share / (cluster.gpu.link_gb_s * 1e9 * constants.link)
    network = 0.0
    if nodes > 1:
        rate = (cluster.network_gb_s or default_network(cluster)) * 1e9 * constants.link
        network = traffic.num_bytes * (nodes - 1) / nodes / rate
    hops = (world - nodes) * HOP_S["link"] + (nodes * HOP_S["network"] if nodes > 1 else 0)
    # From some hundred hops on NCCL uses trees, whose depth grows with the logarithm.
    tree = 2 * math.log2(max(2, nodes)) * HOP_S["network"] + cluster.gpus_per_node * HOP_S["link"]
    latency = hops if traffic.passes == 1 else min(2 * hops, 2 * tree)
    return traffic.passes * max(link, network) + traffic.num * latency


def default_network(cluster: Cluster) -> float:
    """10^9 bytes a second from a node to the others: the usual network, by the number of its GPUs."""
    return cluster.gpu.network_gb_s * min(1.0, max(1, cluster.gpus_per_node) / 8)


def kept_gathered(job: Job) -> float:
    """Elements of gathered weights that stay from the forward to the backward pass.

    DeepSpeed frees weights unless they are used again within stage3_max_reuse_distance elements: those of the last
    layers, which half of that distance reaches over.
    """
    states, whole = job.states, float(job.shape.num_parameters)
    return whole if states.keeps_gathered else min(whole, states.reuse / 2)


def step_traffic(job: Job) -> list[Traffic]:
    """The collectives of a step, by what is kept in parts.

    Weights in parts are gathered in each forward pass, and those that did not stay in each backward pass again; not
    once more with checkpointing, as a layer is recomputed when it is there for its backward pass. With a second copy
    on each node (hpZ), other nodes are asked once a step, for what is trained. Gradients of weights in parts are
    reduced in each micro-batch; others once a step (in each micro-batch at stage 2, where no rank keeps those of
    others), and the updated weights are gathered once.
    """
    states, micro_batches = job.states, job.batch.num_micro_batches
    weights, trained = float(job.shape.num_parameters), float(job.num_trained)
    times = micro_batches if states.shards_gradients else 1
    reduced = times * trained * states.exchanged
    if states.shards_weights:
        gathered = micro_batches * (2 * weights - kept_gathered(job))
        # Each node has a copy of what the last update has not changed, and of the rest after its first use in a step.
        has_copy = 1 < states.secondary < job.cluster.world_size
        on_node = gathered - trained if has_copy else 0.0
        each = collectives_of_matrices(job.shape, states.fetched) / weights
        parts = (("gather weights", gathered - on_node, None), ("gather within the node", on_node, states.secondary))
        return [
            *(
                Traffic(name, each * elements, elements * states.weight, ranks=ranks)
                for name, elements, ranks in parts
                if elements > 0
            ),
            Traffic("reduce gradients", micro_batches * _reduces(job), reduced),
        ]
    buckets = math.ceil(trained / states.bucket) if states.bucket else 1.0
    passes = 2.0 if states.all_reduces or not states.shards_optimizer else 1.0
    found = [Traffic("reduce gradients", times * buckets, reduced, passes)]
    if states.shards_optimizer:
        found.append(Traffic("gather weights", 1, trained * states.weight))
    return found


def _reduces(job: Job) -> float:
    """How often the gradients of a micro-batch are reduced where weights are in parts."""
    if job.states.fetched == 0:
        return job.shape.num_layers + 1.0
    if job.adapters is not None:  # whose matrices are small
        return max(1.0, job.num_trained / job.states.bucket)
    return collectives_of_matrices(job.shape, job.states.bucket, job.frozen)


def collectives_of_matrices(shape: ModelShape, at_once: float, frozen: Frozen | None = None) -> float:
    """In how many collectives the weights of all matrices are sent, or of those that are not frozen, if small ones go
    together until they are so many elements; once a layer if at_once is 0."""
    if at_once == 0:
        return shape.num_layers + 1.0
    tokens = shape.hidden * shape.vocabulary
    ends = [shape.head, shape.others]
    if frozen is None or not frozen.embeddings:
        ends += [tokens, max(0, shape.embeddings - tokens)]
    left = [stack.num - (len(frozen.layers[at]) if frozen else 0) for at, stack in enumerate(shape.stacks)]
    layers = sum(
        num * sum(min(1.0, size / at_once) for size in stack.sizes_of_matrices)
        for num, stack in zip(left, shape.stacks, strict=True)
    )
    return max(1.0, layers + sum(min(1.0, size / at_once) for size in ends))
