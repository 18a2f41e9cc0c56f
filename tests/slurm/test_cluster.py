"""The cluster of the tests is what it says: machines of their own, that break as machines do, and leave nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.slurm_cluster import Cluster, wait_for

ROOT = Path(__file__).parents[2]


def test_every_node_is_a_machine_of_its_own_with_the_files_of_this_one(cluster: Cluster, tmp_path: Path) -> None:
    line = (
        'echo "$(hostname) $(hostname --ip-address) $CUDA_VISIBLE_DEVICES $(ls /dev/shm | wc -l)" >"$SLURMD_NODENAME"'
    )
    done = cluster.run("srun", "--nodes=2", "--gpus-per-node=2", "bash", "-c", line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "node1").read_text() == "node1 10.77.0.11 0,1 0\n"
    assert (tmp_path / "node2").read_text() == "node2 10.77.0.12 0,1 0\n"


def test_a_third_gpu_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    done = cluster.run("srun", "--gpus-per-node=3", "true", cwd=tmp_path)
    assert done.returncode != 0


@pytest.mark.usefixtures("cluster")
def test_a_cluster_ends_with_the_process_that_started_it() -> None:
    program = (
        "from tests.support.slurm_cluster import *\n"
        "with open_cluster(1) as cluster:\n"
        "    print(cluster.init_pid, flush=True)\n"
        "    input()\n"
    )
    mounts = Path("/proc/self/mounts").read_text()
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        init = process.stdout.readline().strip()
        children = set(Path(f"/proc/{init}/task/{init}/children").read_text().split())
        assert len(children) >= 2
        os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not any(Path("/proc", pid).exists() for pid in (init, *children)), 10)
    assert Path("/proc/self/mounts").read_text() == mounts
