"""Ranks are restarted where their job is, unless the queue promises more."""

from dataclasses import replace
from typing import Any

import pytest

from shardtune.launcher.slurm.in_place import Here, Queue, Situation, choose_place, lost_nodes

FOUR = ("node1", "node2", "node3", "node4")
FAILED = Situation(
    nodes=FOUR, all_nodes=FOUR, left=FOUR, on_lost_node="shrink", is_warned=False, warned_in_s=None,
    has_stepped=True, is_restart=False, is_users_fault=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({}, Here(FOUR)),
        ({"has_stepped": False}, Here(FOUR)),  # killed in start-up
        ({"is_restart": True}, Here(FOUR)),
        ({"is_restart": True, "has_stepped": False}, Queue("a restart in this job did not reach a step either")),
        ({"is_warned": True}, Queue("")),
        ({"warned_in_s": 121.0}, Here(FOUR)),
        ({"warned_in_s": 119.0}, Queue("too little of the time limit is left to restart in this job")),
        ({"left": FOUR[:3]}, Here(FOUR[:3])),
        ({"left": FOUR[:2]}, Here(FOUR[:2])),
        ({"left": FOUR[:1]}, Queue("only 1 of 4 nodes are left")),
        ({"left": FOUR[:3], "is_restart": True, "has_stepped": False}, Here(FOUR[:3])),
        ({"left": FOUR[:3], "on_lost_node": "requeue"}, Queue("job.on_lost_node is requeue")),
        ({"nodes": FOUR[:1], "all_nodes": FOUR[:1], "left": ()}, Queue("only 0 of 1 node are left")),
        ({"nodes": FOUR[:3], "left": FOUR[:3], "is_restart": True}, Here(FOUR[:3])),
        ({"nodes": FOUR[:3], "left": FOUR, "is_restart": True}, Here(FOUR)),  # one that only did not answer is back
        ({"nodes": FOUR[:3], "left": FOUR[:3], "is_users_fault": True}, Queue("3 nodes may be too few")),
        ({"nodes": FOUR[:3], "left": FOUR[:3], "has_stepped": False}, Queue("3 nodes may be too few")),
    ],
)
def test_the_place_of_a_restart(change: dict[str, Any], place: Here | Queue) -> None:
    assert choose_place(replace(FAILED, **change)) == place


def test_lost_is_a_node_of_the_ranks_that_is_no_longer_there() -> None:
    assert lost_nodes(replace(FAILED, left=("node1", "node3"))) == ["node2", "node4"]
    assert lost_nodes(replace(FAILED, nodes=FOUR[:3], left=FOUR[:3])) == []
