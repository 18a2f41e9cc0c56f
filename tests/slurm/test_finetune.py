"""slurm/finetune.sh on real nodes: one loss curve, whatever ends a start of the job, and every end told apart."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shardtune.launcher.slurm.lifecycle import parse_cancellation
from shardtune.trainer.checkpoint.manifest import complete_checkpoints
from tests.support.runs import curve, events
from tests.support.slurm_cluster import ROOT, wait_for
from tests.support.slurm_jobs import (
    LAST_STEP,
    START_S,
    Stage,
    Told,
    by_hand,
    each_of,
    endings,
    held_still,
    messages,
    noted_by_shell,
    ranks_of,
    sbatch,
    starts,
    wait_for_end,
    wait_for_step,
)

HOSTILE = "a'; touch pwned #"


def two_nodes_of_two_ranks(stage: Stage) -> None:
    folder = stage.folder / "a folder"
    folder.mkdir()
    recipe = folder / f"{HOSTILE}.yaml"
    recipe.write_text(stage.recipe.read_text().replace("deepspeed: null", "deepspeed: zero2"))
    words = ["--nodelist=node[1-2]", "--nodes=2", "--gpus-per-node=2"]
    job = by_hand(stage.cluster, *words, recipe=recipe, ranks=2, run_dir=None)
    here = stage.folder / "here"
    argv = [sys.executable, "-m", "shardtune.launcher", "run", recipe, f"--run-dir={here}", "job.device=cpu"]
    argv += ["job.ranks=4", "job.threads_per_rank=1"]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=2 * START_S)
    assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
    (run_dir,) = (folder / "runs").iterdir()
    said = f"job {job}: 4 ranks on cpu, 2 on each of node[1-2]; run directory: {run_dir}"
    assert said in messages(stage.cluster, job)
    assert endings(run_dir) == [("finished", "finished")]
    assert (run_dir / "report.html").is_file() and (run_dir / "export" / "best" / "model.safetensors").is_file()
    assert {path.name for path in folder.iterdir()} == {recipe.name, "runs", f"slurm-{job}.out"}
    assert curve(events(run_dir)) == [pytest.approx(point, rel=1e-3) for point in curve(events(here))]
    assert curve(events(run_dir)) == [pytest.approx(point, rel=1e-3) for point in stage.unbroken]


def the_time_limit_and_a_controller_that_dies(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    words = ["--nodelist=node1", "--signal=B:USR1@5"]
    job = by_hand(stage.cluster, *words, recipe=stage.recipe, run_dir=run_dir)
    wait_for_step(run_dir, 1)
    with held_still(run_dir):
        stage.cluster.restart_controller()
        soon = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 45))  # Slurm looks every 30 s
        stage.cluster.ask("scontrol", "update", f"JobId={job}", f"EndTime={soon}")
        # The ranks are asked to stop first; why, the job notes only then, and it is true until the end is moved.
        wait_for(lambda: noted_by_shell(run_dir), 100)
        stage.cluster.ask("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
    assert endings(run_dir) == [("waiting", "time limit"), ("finished", "finished")]
    first, second = starts(run_dir)
    assert first.last_step is not None and 0 < first.last_step < LAST_STEP
    assert second.first_step == first.last_step
    said = f"stopped at step {first.last_step} because of the time limit; requeued (1 of 10)"
    assert said in messages(stage.cluster, job)
    assert curve(events(run_dir)) == [pytest.approx(point, rel=1e-3) for point in stage.unbroken]


def a_higher_partition_and_scancel(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    words = ["--nodelist=node3", "--partition=low"]
    job = by_hand(stage.cluster, *words, recipe=stage.recipe, run_dir=run_dir)
    wait_for_step(run_dir, 1)
    with held_still(run_dir):
        other = sbatch(stage.cluster, "--nodelist=node3", "--exclusive", "--wrap=sleep 2", cwd=stage.folder)
        wait_for(lambda: noted_by_shell(run_dir), 30)
    assert wait_for_end(stage.cluster, other) == "COMPLETED"
    wait_for_step(run_dir, 1, num_starts=2)
    with held_still(run_dir):
        stage.cluster.ask("scancel", job)
    assert wait_for_end(stage.cluster, job) == "CANCELLED"
    wait_for(lambda: not ranks_of(run_dir))
    first = starts(run_dir)[0]
    assert (first.state, first.cause) == ("waiting", "preemption")
    assert parse_cancellation(Path(stage.cluster.field(job, "StdOut")).read_text()) == "scancel"
    # SIGTERM has saved a checkpoint, whether or not the batch shell was left the time to say so.
    stopped = events(run_dir, "stopped")[-1]["step"]
    assert first.last_step is not None and stopped > first.last_step
    assert complete_checkpoints(run_dir / "checkpoints")[-1].path.name == f"step-{stopped}"
    assert endings(run_dir)[1] in [("stopped", "scancel"), ("running", None)]


def a_node_that_is_cut_off_and_lives_on(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    job = by_hand(stage.cluster, "--nodelist=node6", recipe=stage.recipe, run_dir=run_dir)
    wait_for_step(run_dir, 1)
    pid = ranks_of(run_dir)[0]

    def written() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in run_dir.rglob("*") if path.name != "rank-0.log"}

    try:
        with held_still(run_dir):
            stage.cluster.cut(6)
            wait_for(lambda: stage.cluster.field(job, "Restarts") == "1", every_s=0.5)
            stage.cluster.ask("scontrol", "update", f"JobId={job}", "ReqNodeList=node2")
            assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
            assert endings(run_dir) == [("waiting", "node failure"), ("finished", "finished")]
            assert [start.nodes for start in starts(run_dir)] == ["node6", "node2"]
            assert ranks_of(run_dir) == {0: pid}
            before = written()
        wait_for(lambda: not ranks_of(run_dir))
        assert "took over this run directory" in (run_dir / "logs" / "rank-0.log").read_text()
        assert written() == before
        assert complete_checkpoints(run_dir / "checkpoints")[-1].path.name == f"step-{LAST_STEP}"
    finally:
        stage.cluster.mend(6)


STORIES = [
    two_nodes_of_two_ranks,
    the_time_limit_and_a_controller_that_dies,
    a_higher_partition_and_scancel,
    a_node_that_is_cut_off_and_lives_on,
]


@each_of(STORIES)
def test_a_run_has_one_loss_curve_through(story: Callable[[Stage], None], told: Told) -> None:
    told[story].result()
