"""`shardtune submit` and what goes on from there, as a user types it on a login node."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shardtune.launcher.slurm.text import render_script
from tests.support.slurm_cluster import Cluster, wait_for
from tests.support.slurm_jobs import (
    CPU,
    FINETUNE,
    START_S,
    Shardtune,
    endings,
    held_still,
    messages,
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
    done = shardtune("watch", "../" + tmp_path.name + "/its run")
    assert (done.returncode, done.stdout.endswith("its run: stopped (cancelled as root asked)\n")) == (75, True)
    assert shardtune("status").stdout.count("its run") == 1


def test_of_commands_that_submit_one_run_at_once_one_queues_a_job(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    sbatch(cluster, f"--nodes={cluster.num_nodes}", "--exclusive", "--wrap=sleep 100", cwd=tmp_path)
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: shardtune("submit", "tiny.yaml", *CPU, "--run-dir=r"), range(4)))
    assert sorted(one.returncode for one in done) == [0, 2, 2, 2], [one.stderr for one in done]
    job = next(one.stdout.split()[1] for one in done if not one.returncode)
    assert all(f"job {job} is already in the queue" in one.stderr for one in done if one.returncode)
    assert cluster.ask("squeue", "-h", "-t", "PENDING", "-o", "%i %k") == f"{job} {tmp_path / 'r'}"
    assert sorted(path.name for path in (tmp_path / "r").iterdir() if "submitting" in path.name) == []


def test_a_job_by_hand_that_waits_is_seen_by_submit_and_stop(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    run_dir = tmp_path / "its run"
    assert shardtune("submit", "tiny.yaml", *CPU, f"--run-dir={run_dir}", "job.sbatch_options=[--hold]").returncode == 0
    assert shardtune("stop", run_dir).returncode == 0
    for words in ((run_dir,), ("its run",), ("tiny.yaml", "optim.lr=2e-5", "--run-dir=its run")):
        job = sbatch(cluster, "--hold", FINETUNE, *words, cwd=tmp_path)
        done = shardtune("submit", run_dir)
        assert (done.returncode, f"job {job} is already in the queue for {run_dir}" in done.stderr) == (2, True)
        assert shardtune("stop", run_dir).stdout == f"job {job} is cancelled\n"


def test_a_stop_file_that_comes_while_the_job_waits_stops_it_when_it_begins(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    run_dir = tmp_path / "r"
    done = shardtune("submit", "tiny.yaml", *CPU, "--run-dir=r", "job.sbatch_options=[--hold]")
    job = done.stdout.split()[1]
    (run_dir / "stop").touch()
    cluster.ask("scontrol", "release", job)
    assert wait_for_end(cluster, job) == "FAILED"  # with exit code 75
    assert "stopped before its first step, as requested" in messages(cluster, job)
    assert endings(run_dir) == [("stopped", "stop")]
    assert not {"stop", "lease.json"} & {path.name for path in run_dir.iterdir()}


def test_a_number_that_is_another_jobs_by_now_is_left_alone(
    cluster: Cluster, shardtune: Shardtune, tmp_path: Path
) -> None:
    """As after a controller was set up anew, which counts from 1 again."""
    done = shardtune("submit", "tiny.yaml", *CPU, "--run-dir=r", "job.sbatch_options=[--hold]")
    job = done.stdout.split()[1]
    record = json.loads((tmp_path / "r" / "submission.json").read_text())
    assert (record["cluster"], record["user"]) == ("lab", "root") and record["submit_time"] == cluster.field(
        job, "SubmitTime"
    )
    assert shardtune("stop", "r").stdout == f"job {job} is cancelled\n"

    other = sbatch(cluster, "--hold", "--wrap=sleep 100", cwd=tmp_path)
    yesterday = {"submit_time": "2026-01-01T00:00:00", "submitted": 1767225600.0}
    old = {"job": other, "submitted": 1767225600.0}
    for changed in ({**record, "job": other, **yesterday}, old, {**record, "job": other, "cluster": "another"}):
        (tmp_path / "r" / "submission.json").write_text(json.dumps(changed))
        (tmp_path / "r" / "stop_request.json").unlink(missing_ok=True)
        assert shardtune("stop", "r").returncode == 2
        assert "state    lost" in shardtune("status", "r").stdout
        assert cluster.state(other) == "PENDING"


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
        before = {name: (run_dir / name).read_bytes() for name in ("config.yaml", "status.json", "lease.json")}
        rival = sbatch(cluster, "--cpus-per-task=1", FINETUNE, "tiny.yaml", *CPU[:2], "--run-dir=r", cwd=tmp_path)
        assert wait_for_end(cluster, rival) == "FAILED"
        assert any(f"is owned by job {job}, process" in line for line in messages(cluster, rival))
        assert before == {name: (run_dir / name).read_bytes() for name in before}
        done = shardtune("requeue", "r")
        assert done.stdout == f"job {job} will save a checkpoint and be requeued\n"
        wait_for(lambda: (run_dir / "stop").exists())
    wait_for_step(run_dir, 1, num_starts=2)
    with ThreadPoolExecutor(1) as pool:
        with held_still(run_dir):
            following = pool.submit(shardtune, "logs", "r", "-f")
            done = shardtune("stop", "r")
            assert "will save a checkpoint after the current step and stop" in done.stdout
            assert (run_dir / "stop").read_text() == "shardtune stop, by root\n"
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
    assert shardtune("requeue", "r").stdout == f"job {int(rival) + 1} is in the queue for r\n"


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
    assert done.stdout.splitlines()[-1] == "r: finished"
    job = done.stdout.split()[1]
    assert cluster.field(job, "StartTime") >= cluster.field(first, "EndTime")
    assert endings(tmp_path / "r") == [("finished", "finished")]
