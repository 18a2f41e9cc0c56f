"""`shardtune submit` and what goes on from there, as a user types it on a login node."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardtune.launcher.slurm.text import render_script
from tests.support.slurm_cluster import Cluster, wait_for
from tests.support.slurm_jobs import (
    CPU,
    START_S,
    Shardtune,
    endings,
    held_still,
    sbatch,
    starts,
    wait_for_end,
    wait_for_step,
)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("job.partition=mian", "job.partition: unknown partition 'mian'"),
        ("job.gpus_per_node=3", "job.gpus_per_node: 3 are requested, but no node of main has more than 2"),
        (
            "job.stop_lead_s=3600",
            "job.time_limit: not set, and the default of main, 1:00:00, is not above job.stop_lead",
        ),
        ("job.time_limit=90 min", "expected [D-]HH:MM:SS, got '90 min'"),
        ("job.constraint=a100", "job.constraint: no node has this feature (sbatch: "),
        ("job.memory_per_node_gb=900", "memory_per_node_gb: not enough nodes, or none, have these resources (sbatch: "),
    ],
)
def test_what_the_cluster_does_not_have_is_refused_in_one_line(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path, override: str, said: str
) -> None:
    done = shardtune("submit", "tiny.yaml", override)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists() and not cluster.ask("squeue", "-h")


def test_what_ends_a_job_before_its_ranks_begin_is_told_with_its_exit_code(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    (tmp_path / "exits.sh").write_text("exit 3\n")
    (tmp_path / "second.sh").write_text("[[ $SLURMD_NODENAME == node1 ]] || { echo no cuda/13; exit 4; }\n")
    (tmp_path / "no_python").write_text("")
    settings = {
        "a": ["job.preamble=exits.sh"],
        "b": [f"job.python={tmp_path / 'no_python'}"],
        "c": ["job.preamble=second.sh", "job.nodes=2", "job.sbatch_options=['--nodelist=node[1-2]']"],
    }
    for name, words in settings.items():
        assert shardtune("submit", "tiny.yaml", *CPU, f"--run-dir={name}", *words).returncode == 0
    wait_for(lambda: not cluster.ask("squeue", "-h"), START_S)
    told = {name: json.loads(shardtune("status", name, "--json").stdout)[0] for name in settings}
    assert {run["state"] for run in told.values()} == {"failed"}, told
    how = "ended before training began (FAILED, exit code 2): "
    assert f"{how}{tmp_path}/exits.sh: the preamble ended on node" in told["a"]["why"]
    assert "with exit code 3" in told["a"]["why"]
    assert f"{how}no Python on node" in told["b"]["why"] and "name another one with job.python" in told["b"]["why"]
    assert endings(tmp_path / "c") == [("failed", "failure")]
    said = shardtune("logs", "c").stdout
    assert "node2 failed first (exited with exit code 2), before a rank recorded anything" in said
    assert "no cuda/13\nshardtune: " in said and "second.sh: the preamble ended on node2 with exit code 4" in said


def test_a_dry_run_shows_the_script_and_writes_nothing(shardtune: Shardtune, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = shardtune("submit", "tiny.yaml", "--dry-run", "job.nodes=2")
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --nodes=2\n" in done.stdout and "#SBATCH --gpus-per-node=2\n" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_job_that_waits_says_what_for(cluster: Cluster, shardtune: Shardtune, tmp_path: Path) -> None:
    sbatch(cluster, f"--nodes={cluster.num_nodes}", "--exclusive", "--wrap=sleep 100", cwd=tmp_path)
    done = shardtune("submit", "tiny.yaml", *CPU, "--run-dir=its run")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1]
    assert cluster.state(job) == "PENDING"
    wait_for(lambda: cluster.field(job, "Reason") in ("Resources", "Priority"), 30)
    (run,) = json.loads(shardtune("status", "its run", "--json").stdout)
    assert (run["state"], run["job"]) == ("pending", job)
    assert run["why"].startswith(("waiting for free nodes", "waiting behind jobs"))
    assert f"pending  {job}" in shardtune("status").stdout

    done = shardtune("submit", "its run")
    assert done.returncode == 2
    assert f"job {job} is already in the queue for {tmp_path / 'its run'} (PENDING)" in done.stderr
    assert shardtune("stop", "its run").stdout == f"job {job} is cancelled\n"
    assert cluster.state(job) == "CANCELLED"
    assert "left the queue without starting" in shardtune("status", "its run").stdout


def test_a_run_is_requeued_and_stopped_and_reports_its_state(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    run_dir = tmp_path / "r"
    done = shardtune("submit", "tiny.yaml", *CPU, f"--run-dir={run_dir}")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1]
    wait_for_step(run_dir, 1)
    with held_still(run_dir):
        assert "state    running: " in shardtune("status", "r").stdout
        done = shardtune("requeue", "r")
        assert done.stdout == f"job {job} will save a checkpoint and be requeued\n"
        wait_for(lambda: (run_dir / "stop").exists())
    wait_for_step(run_dir, 1, num_starts=2)
    with ThreadPoolExecutor(1) as pool:
        with held_still(run_dir):
            following = pool.submit(shardtune, "logs", "r", "-f")
            done = shardtune("stop", "r")
            assert "will save a checkpoint after the current step and stop" in done.stdout
        done = shardtune("watch", "r")
        assert (done.returncode, done.stdout) == (75, "r: stopped (stop)\n")
        followed = following.result()  # it ends with the run, and has printed its last words
    assert followed.returncode == 0, followed.stderr
    assert followed.stdout.rstrip().endswith(f"shardtune: stopped at step {starts(run_dir)[1].last_step}, as requested")
    assert wait_for_end(cluster, job) == "FAILED"  # 75 is not success: a job that depends on it does not start
    assert endings(run_dir) == [("waiting", "signal"), ("stopped", "stop")]
    first, second = starts(run_dir)
    assert second.first_step == first.last_step
    assert "starts   2, requeued after: signal" in shardtune("status", "r").stdout
    assert f"shardtune: job {job}: 1 rank on cpu" in shardtune("logs", "r").stdout
    assert "loading the model" in shardtune("logs", "r").stdout
    assert shardtune("logs", "r", "--rank=0").stdout.count("--- ") == 2
    assert shardtune("requeue", "r").stdout == f"job {int(job) + 1} is in the queue for r\n"


HOSTILE = [
    "a'; touch pwned #", 'say "hi"', "both ' and \"", "$(touch pwned)", "`id`", "ünï çødé 中文", "100%j", "x  y",
    "#SBATCH", "a\\b", "tail\\",
]  # fmt: skip


def test_a_name_reaches_slurm_as_it_is(cluster: Cluster, tmp_path: Path) -> None:
    for name in HOSTILE:
        script = tmp_path / "job.sbatch"
        script.write_text(render_script([f"--comment={name}", "--hold"], {}, [], "true"), encoding="utf-8")
        job = sbatch(cluster, script, cwd=tmp_path)
        assert cluster.ask("squeue", "-h", "-j", job, "-o", "%k") == name


def test_a_run_starts_after_the_job_it_depends_on(cluster: Cluster, shardtune: Shardtune, tmp_path: Path) -> None:
    done = shardtune("submit", "tiny.yaml", *CPU, "--depends=afterok:99999", "--run-dir=r")
    assert done.returncode == 2 and "--depends: Slurm knows no job 99999" in done.stderr

    first = sbatch(cluster, "--wrap=sleep 3", cwd=tmp_path)
    words = [*CPU, "train.max_steps=2", "--run-dir=r", f"--depends=afterok:{first}", "--wait"]
    done = shardtune("submit", "tiny.yaml", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{tmp_path / 'r'}: finished"
    job = done.stdout.split()[1]
    assert cluster.field(job, "StartTime") >= cluster.field(first, "EndTime")
    assert endings(tmp_path / "r") == [("finished", "finished")]
