"""`shardtune doctor` names the node that something is wrong with."""

from tests.support.slurm_cluster import Cluster
from tests.support.slurm_jobs import CPU, Shardtune


def test_a_node_with_a_slow_network_is_named(cluster: Cluster, shardtune: Shardtune) -> None:
    cluster.slow_down(2, "20mbit")
    try:
        done = shardtune("doctor", "--nodes=3", *CPU, "job.sbatch_options=['--nodelist=node[1-3]']")
    finally:
        cluster.speed_up(2)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "! node2 is slow: it sends at " in done.stdout
    assert [f"link node{a} - node{b}" in done.stdout for a, b in ((1, 2), (2, 3), (3, 1))] == [True] * 3
