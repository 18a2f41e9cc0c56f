"""A node that something is wrong with is named by `shardtune doctor`, and left by a run that is to leave such."""

import json
from pathlib import Path

from shardtune.launcher.slurm.text import parse_node_list
from tests.support.slurm_cluster import PATH, Cluster
from tests.support.slurm_jobs import CPU, Shardtune, endings, messages, starts, wait_for_end

NVIDIA_SMI = """#!/bin/bash
if [[ $1 == --query-remapped-rows=* ]]; then
    printf '00000000:%s:00.0, No, No\\n' 07 0B
    exit
fi
echo "0, 00000000:07:00.0, 0, [N/A], Not Active, Not Active, Not Active, 16, 16"
[[ $SLURMD_NODENAME == node3 ]] && errors=3
echo "1, 00000000:0B:00.0, ${errors:-0}, [N/A], Not Active, Not Active, Not Active, 16, 16"
"""


def test_a_node_with_a_slow_network_is_named_and_one_with_a_gpu_that_is_not_well(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvidia-smi").write_text(NVIDIA_SMI)
    (tmp_path / "bin" / "nvidia-smi").chmod(0o755)
    words = ["--nodes=3", *CPU, "job.sbatch_options=['--nodelist=node[1-3]']"]
    cluster.slow_down(2, "20mbit")
    try:
        for _ in range(4):  # the virtual nodes share a machine, which may be busy while one of them is measured
            done = shardtune("doctor", *words, PATH=f"{tmp_path / 'bin'}:{PATH}")
            if "! node2 is slow: it exchanges " in done.stdout:
                break
    finally:
        cluster.speed_up(2)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "! node2 is slow: it exchanges " in done.stdout
    assert "! GPU 1 of node3 is unhealthy: 3 uncorrected memory errors since the last reboot\n" in done.stdout
    assert [f"link node{a} - node{b}" in done.stdout for a, b in ((1, 2), (1, 3), (2, 3))] == [True] * 3


def test_a_run_leaves_a_slow_node_and_trains_on_others(cluster: Cluster, shardtune: Shardtune, tmp_path: Path) -> None:
    cluster.slow_down(2, "20mbit")
    try:
        words = ["job.nodes=3", "job.exclude_bad_nodes=true", "train.max_steps=2"]
        done = shardtune("submit", "tiny.yaml", "--run-dir=r", *CPU, *words)
        assert done.returncode == 0, done.stderr
        job = done.stdout.split()[1]
        assert wait_for_end(cluster, job) == "COMPLETED", messages(cluster, job)
    finally:
        cluster.speed_up(2)
    assert endings(tmp_path / "r") == [("waiting", "bad node"), ("finished", "finished")]
    first, second = starts(tmp_path / "r")
    assert first.nodes == "node[1-3]"
    assert len(others := parse_node_list(second.nodes)) == 3 and "node2" not in others
    assert cluster.field(job, "ExcNodeList") == "node2"
    (bad,) = json.loads((tmp_path / "r" / "bad_nodes.json").read_text())
    assert (bad["node"], bad["why"], bad["job"]) == ("node2", "slow", job)
    said = messages(cluster, job)  # of both starts, for the second one goes on in the same file
    assert said[0].startswith(f"job {job}: 3 ranks on cpu, 1 on each of node[1-3];")
    assert "node2 is slow; requeued without node2" in said
    assert f"job {job}: 3 ranks on cpu, 1 on each of {second.nodes}; run directory: {tmp_path / 'r'}" in said
    assert "starts   2, requeued after: bad node" in shardtune("status", "r").stdout
