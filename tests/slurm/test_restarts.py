"""Ranks and nodes that die within a job: it goes on where it is, and says who died."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.runs import curve, events
from tests.support.slurm_cluster import wait_for
from tests.support.slurm_jobs import (
    START_S,
    Stage,
    Told,
    by_hand,
    each_of,
    endings,
    held_still,
    messages,
    ranks_of,
    sbatch,
    starts,
    wait_for_checkpoint,
    wait_for_end,
    wait_for_step,
)


def has_the_unbroken_curve(stage: Stage, run_dir: Path) -> bool:
    """Whether the run has lost and learned nothing by its restarts."""
    return curve(events(run_dir)) == [pytest.approx(point, rel=1e-3) for point in stage.unbroken]


def a_killed_rank_steps_again_while_others_wait_for_the_nodes(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    # The batch script of an exclusive job sees two GPUs, a step the one that was requested.
    words = ["--nodelist=node[1-2]", "--nodes=2", "--exclusive", "--gpus-per-node=1"]
    job = by_hand(stage.cluster, *words, recipe=stage.recipe, run_dir=run_dir)
    others = [sbatch(stage.cluster, *words, "--wrap=true", cwd=stage.folder) for _ in range(2)]
    wait_for(lambda: len(ranks_of(run_dir)) == 2, START_S)
    os.kill(ranks_of(run_dir)[1], signal.SIGKILL)  # in start-up, where srun's SIGTERM is a stop request to the other
    wait_for_step(run_dir, 11, num_starts=2)
    wait_for_checkpoint(run_dir)
    os.kill(ranks_of(run_dir)[1], signal.SIGKILL)
    wait_for_step(run_dir, 11, num_starts=3)
    assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
    assert endings(run_dir) == [("restarting", "failure")] * 2 + [("finished", "finished")]
    said = messages(stage.cluster, job)
    assert sum(line.startswith("rank 1 on node2 was killed by signal 9 (Killed)") for line in said) == 2, said
    assert "failed before its first step; restarting in this job in 5 s (restart 1)" in said
    third = starts(run_dir)[2]
    assert third.first_step is not None and third.first_step in range(10, 60, 10)
    assert has_the_unbroken_curve(stage, run_dir)
    for other in others:
        assert wait_for_end(stage.cluster, other) == "COMPLETED"
        assert stage.cluster.field(other, "StartTime") >= stage.cluster.field(job, "EndTime")


def a_lost_node_leaves_the_job_to_the_others_until_it_is_requeued(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    words = ["--nodelist=node[3-4]", "--nodes=2"]
    job = by_hand(stage.cluster, *words, recipe=stage.recipe, run_dir=run_dir)
    wait_for_checkpoint(run_dir)  # the first one is that of step 10
    with held_still(run_dir, rank=1):
        stage.cluster.crash(4)
    wait_for_step(run_dir, 11, num_starts=2)
    with held_still(run_dir):
        assert events(run_dir, "start")[-1]["world_size"] == 1
        stage.cluster.boot(4)
        os.kill(ranks_of(run_dir)[0], signal.SIGKILL)
    wait_for(lambda: len(starts(run_dir)) == 3)
    stage.cluster.ask("scancel", "--batch", "--signal=USR1", job)  # while the restart waits
    assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
    said = messages(stage.cluster, job)
    restarts = [("restarting", "node failure"), ("restarting", "failure")]
    assert endings(run_dir) == [*restarts, ("waiting", "signal"), ("finished", "finished")], said
    assert [start.nodes for start in starts(run_dir)] == ["node[3-4]", "node3", "node3", "node[3-4]"]
    assert [event["world_size"] for event in events(run_dir, "start")] == [2, 1, 2]
    assert any(line.startswith("lost node4 at step ") and line.endswith("on node3") for line in said), said
    assert has_the_unbroken_curve(stage, run_dir)


def a_job_that_loses_its_first_node_is_requeued_by_another(stage: Stage) -> None:
    run_dir = stage.folder / "run"
    words = ["--nodelist=node[5-6]", "--nodes=2"]
    job = by_hand(stage.cluster, *words, recipe=stage.recipe, run_dir=run_dir)
    wait_for_checkpoint(run_dir)
    with held_still(run_dir, rank=1):
        stage.cluster.crash(5)
    wait_for(lambda: stage.cluster.field(job, "Restarts") == "1", 120, every_s=0.5)
    stage.cluster.boot(5)
    assert wait_for_end(stage.cluster, job) == "COMPLETED", messages(stage.cluster, job)
    assert endings(run_dir) == [("waiting", "node failure"), ("finished", "finished")]
    assert has_the_unbroken_curve(stage, run_dir)


STORIES = [
    a_killed_rank_steps_again_while_others_wait_for_the_nodes,
    a_lost_node_leaves_the_job_to_the_others_until_it_is_requeued,
    a_job_that_loses_its_first_node_is_requeued_by_another,
]


@each_of(STORIES)
def test_a_run_goes_on_in_its_job(story: Callable[[Stage], None], told: Told) -> None:
    told[story].result()
