"""A node is excluded once, and only if the node can be the cause."""

from pathlib import Path

import pytest

from shardtune.run_dir.bad_nodes import LEAST_BAD_NODES, BadNode, keep_bad_nodes, may_be_excluded, read_bad_nodes

NODES = [f"node{number}" for number in range(1, 9)]
KNOWN = [BadNode("node2", "slow", "7", 0.0)]


def test_bad_nodes_are_read_back_as_kept(tmp_path: Path) -> None:
    assert read_bad_nodes(tmp_path) == []
    keep_bad_nodes(tmp_path, {"node2": "slow"}, job="7")
    keep_bad_nodes(tmp_path, {"node3": "sick", "node4": "unfit"}, job="8")
    kept = [(bad.node, bad.why, bad.job) for bad in read_bad_nodes(tmp_path)]
    assert kept == [("node2", "slow", "7"), ("node3", "sick", "8"), ("node4", "unfit", "8")]


@pytest.mark.parametrize(
    ("bad", "left"),
    [
        ([], []),
        (["node3"], ["node3"]),
        (["node2"], []),  # it was excluded before, and Slurm allocated it again
        (["node2", "node3"], ["node3"]),
        (["elsewhere"], []),
        (NODES[2:5], NODES[2:5]),
        (NODES[2:7], []),  # with so many, the nodes are hardly the cause
    ],
)
def test_which_nodes_are_worth_another_start(bad: list[str], left: list[str]) -> None:
    assert list(may_be_excluded(dict.fromkeys(bad, "slow"), KNOWN, NODES)) == left


def test_one_of_two_and_a_single_node_may_be_excluded_but_not_both_of_two() -> None:
    assert may_be_excluded({"a": "sick"}, [], ["a"]) == may_be_excluded({"a": "sick"}, [], ["a", "b"]) == {"a": "sick"}
    assert may_be_excluded({"a": "sick", "b": "sick"}, [], ["a", "b"]) == {}


def test_a_run_does_not_wander_through_a_cluster_that_is_bad_as_a_whole() -> None:
    known = [BadNode(f"n{number}", "slow", "7", 0.0) for number in range(LEAST_BAD_NODES)]
    assert may_be_excluded({"node3": "slow"}, known, NODES) == {}
    assert may_be_excluded({"node3": "slow"}, known, [f"node{number}" for number in range(512)]) == {"node3": "slow"}
