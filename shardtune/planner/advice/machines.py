"""Which other machines would do: the smallest that can, and what more nodes bring."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shardtune.errors import ConfigError
from shardtune.planner.advice.search import Candidate, Question, candidates, search
from shardtune.planner.advice.settings import Setting, micro_batches_for, strategies_for
from shardtune.planner.forecast.forecast import GIB, has_room
from shardtune.planner.forecast.of_recipe import rows_per_step
from shardtune.planner.hardware import Gpu
from shardtune.planner.job import Cluster

LAYOUTS = ((1, 1), (1, 2), (1, 4), *((nodes, 8) for nodes in (1, 2, 4, 8, 16, 32, 64)))
"""Nodes and GPUs of each, of the machines that are asked whether they are large enough."""
HELPS = 0.2
"""More nodes help if a doubling of their number saves at least this part of the time."""
MOST_NODES = 1024
"""Where the scaling curve ends at the latest."""


@dataclass(frozen=True)
class ScalePoint:
    """The best that a number of nodes can do."""

    cluster: Cluster
    best: Candidate | None
    """None if nothing fits."""
    efficiency: float | None
    """Work per GPU and second, as a part of that on the fewest nodes on which it fits."""


def scaling_curve(question: Question, cluster: Cluster) -> list[ScalePoint]:
    """1, 2, 4, … nodes and those asked for, up to the first doubling that does not help; a step is the same on all."""
    longest = question.recipe.data.max_tokens
    rows = rows_per_step(question.recipe, min(longest, question.data.tokens_per_row or longest))
    points: list[ScalePoint] = []
    nodes, before = 1, None
    while nodes <= max(cluster.num_nodes, MOST_NODES):
        point = _point(question, replace(cluster, num_nodes=nodes), points)
        points.append(point)
        helped = before is None or point.best is None or point.best.step_s <= (1 - HELPS) * before.step_s
        before = point.best or before
        if nodes >= cluster.num_nodes and (not helped or point.cluster.world_size >= rows):
            break
        nodes *= 2
    if all(point.cluster != cluster for point in points):
        points.append(_point(question, cluster, points))
    return sorted(points, key=lambda point: point.cluster.num_nodes)


def _point(question: Question, cluster: Cluster, before: Sequence[ScalePoint]) -> ScalePoint:
    best = search(question, cluster).best
    if best is None:
        return ScalePoint(cluster, None, None)
    first = next((point for point in before if point.best is not None), None)
    if first is None or first.best is None:
        return ScalePoint(cluster, best, 1.0)
    spent = first.best.step_s * first.cluster.world_size
    return ScalePoint(cluster, best, spent / (best.step_s * cluster.world_size))


def nodes_that_help(points: Sequence[ScalePoint]) -> int | None:
    """The number of nodes beyond which a doubling saves less than HELPS of the time; None if nothing fits anywhere."""
    fitting = [(point.cluster.num_nodes, point.best.step_s) for point in points if point.best is not None]
    if not fitting:
        return None
    limit, limit_s = fitting[0]
    for nodes, step_s in fitting[1:]:
        # Of a number in between, such as 6 after 4, as much as of half a doubling.
        if step_s > (1 - HELPS) ** ((nodes - limit) / limit) * limit_s:
            break
        limit, limit_s = nodes, step_s
    return limit


def smallest_machine(question: Question, gpus: Sequence[Gpu], network_gb_s: float | None = None) -> Candidate | None:
    """The fastest setting on the machine with the fewest GPUs, and of these the one with the least memory, on which
    something fits; None if that is none of LAYOUTS."""
    ascending = sorted(gpus, key=lambda gpu: gpu.memory_gib)
    for nodes, per_node in LAYOUTS:
        least: dict[frozenset[str], float] = {}
        for gpu in ascending:
            cluster = Cluster(gpu=gpu, gpus_per_node=per_node, num_nodes=nodes, network_gb_s=network_gb_s)
            kind = frozenset(gpu.tflops)
            if kind not in least:  # what is needed depends on the precisions that a GPU has, and on nothing else of it
                least[kind] = _least_bytes(question, cluster)
            if has_room(least[kind], gpu.memory_gib * GIB):
                return search(question, cluster).best
    return None


def _least_bytes(question: Question, cluster: Cluster) -> float:
    """Bytes of a GPU that the leanest setting needs for which a node has the memory; infinite if there is none.

    With micro-batches of the least size, or with all of a step in one, after which gradients need not stay.
    """
    budgets = micro_batches_for(question.recipe, cluster, question.data)
    settings = [
        Setting(deepspeed, tokens, checkpointing)
        for deepspeed in strategies_for(question.recipe, cluster)
        for checkpointing in (True, False)
        for tokens in {budgets[0], budgets[-1]}
    ]
    try:
        found = candidates(question, cluster, settings)
    except ConfigError:  # the GPU has no such precision
        return math.inf
    return min((one.forecast.memory.used for one in found if one.has_host), default=math.inf)
