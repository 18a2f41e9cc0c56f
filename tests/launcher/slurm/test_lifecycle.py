"""How a start ended follows from what it left, and only a run that makes progress is requeued."""

from dataclasses import replace
from typing import Any

import pytest

from shardtune.launcher.slurm.in_place import Here, Queue
from shardtune.launcher.slurm.lifecycle import (
    Evidence,
    Start,
    decide,
    ended,
    parse_cancellation,
    parse_status,
    parse_unfit,
    render_status,
    restarted,
    steps_of,
)
from shardtune.launcher.start.restart import GiveUp, Restart

STOPPED = Evidence(
    finished=False, first_step=10, last_step=40, stopped=True, asked_by_user=False, warning="time limit",
    cancelled=None, taken_back=False, exit_code=1, num_requeues=2, max_requeues=10,
)  # fmt: skip
BAD: dict[str, Any] = {"bad_nodes": (("node2", "slow"), ("node7", "sick"))}
KILLED: dict[str, Any] = {"stopped": False, "warning": None, "exit_code": 143}
IN_START_UP: dict[str, Any] = {"first_step": None, "last_step": None, "stopped": False, "exit_code": 75}
AGAIN: dict[str, Any] = {"restart": Restart(5.0, 1)}
LOST: dict[str, Any] = {"lost_nodes": ("node2",)}
HERE = Here(("node1", "node3"))


@pytest.mark.parametrize(
    ("change", "state", "cause", "requeue"),
    [
        ({}, "waiting", "time limit", True),
        ({"num_requeues": 10}, "stopped", "time limit", False),
        ({"last_step": 10}, "stopped", "time limit", False),
        ({"max_requeues": 0}, "stopped", "time limit", False),
        ({**IN_START_UP}, "stopped", "time limit", False),
        ({**IN_START_UP, "stepped_before": True}, "waiting", "time limit", True),
        ({**IN_START_UP, "warning": "preemption"}, "waiting", "preemption", True),
        ({**KILLED, **AGAIN, "place": HERE}, "restarting", "failure", False),
        ({**KILLED, **AGAIN, "place": HERE, "max_requeues": 0}, "restarting", "failure", False),
        ({**KILLED, **AGAIN, "place": HERE, "hung": True}, "restarting", "hang", False),
        ({**KILLED, **AGAIN, "place": HERE, "asked_by_user": True}, "stopped", "stop", False),
        ({**KILLED, "place": HERE}, "failed", "failure", False),
        ({**KILLED, "place": HERE, "amended": "auto is 5"}, "restarting", "memory", False),
        ({**KILLED, **LOST, "place": HERE}, "restarting", "node failure", False),
        ({**KILLED, **LOST, "place": Queue("enough")}, "waiting", "node failure", True),
        ({**KILLED, **LOST, "place": Queue("enough"), "max_requeues": 0}, "stopped", "node failure", False),
        ({**KILLED, **LOST, "place": HERE, "asked_by_user": True}, "stopped", "stop", False),
        ({**KILLED, **LOST, "place": HERE, "cancelled": "scancel"}, "stopped", "scancel", False),
        ({**KILLED, **LOST, **BAD, "place": HERE}, "waiting", "bad node", True),
        ({**LOST, "exit_code": 0, "finished": True}, "finished", "finished", False),
        ({"warning": "preemption", "num_requeues": 10, "last_step": 10}, "waiting", "preemption", True),
        ({"warning": "preemption", "max_requeues": 0}, "stopped", "preemption", False),
        ({"warning": "signal"}, "waiting", "signal", True),
        ({"warning": None}, "stopped", "stop", False),
        ({"asked_by_user": True}, "stopped", "stop", False),
        ({"finished": True}, "finished", "finished", False),
        ({**KILLED}, "failed", "failure", False),
        ({**KILLED, "warning": "time limit"}, "failed", "failure", False),
        ({**KILLED, "restart": Restart(5.0, 1)}, "waiting", "failure", True),
        ({**KILLED, "restart": Restart(5.0, 1), "hung": True}, "waiting", "hang", True),
        ({**KILLED, "restart": Restart(5.0, 1), "asked_by_user": True}, "stopped", "stop", False),
        ({**KILLED, "restart": Restart(5.0, 1), "max_requeues": 0}, "failed", "failure", False),
        ({**KILLED, "restart": Restart(5.0, 1), "cancelled": "scancel"}, "stopped", "scancel", False),
        ({**KILLED, "restart": GiveUp("enough"), "hung": True}, "failed", "hang", False),
        ({**KILLED, "exit_code": 0}, "stopped", "unknown", False),
        ({**KILLED, "cancelled": "scancel"}, "stopped", "scancel", False),
        ({**KILLED, "cancelled": "time limit"}, "stopped", "time limit", False),
        ({**KILLED, "cancelled": "preemption", "taken_back": True}, "waiting", "preemption", False),
        ({**KILLED, "cancelled": "preemption"}, "stopped", "preemption", False),
        ({**KILLED, "cancelled": "node failure", "taken_back": True}, "waiting", "node failure", False),
        ({**KILLED, "cancelled": "requeue", "taken_back": True}, "waiting", "requeue", False),
        ({"cancelled": "scancel"}, "stopped", "scancel", False),
        ({**KILLED, "amended": "auto is 5"}, "waiting", "memory", True),
        ({**KILLED, "amended": "auto is 5", "num_requeues": 10, "last_step": 10}, "waiting", "memory", True),
        ({**KILLED, "amended": "auto is 5", "warning": "time limit"}, "waiting", "memory", True),
        ({**KILLED, "amended": "auto is 5", "max_requeues": 0}, "stopped", "memory", False),
        ({**KILLED, "amended": "auto is 5", "asked_by_user": True}, "stopped", "stop", False),
        ({**KILLED, "amended": "auto is 5", "cancelled": "scancel"}, "stopped", "scancel", False),
        ({**KILLED, **BAD}, "waiting", "bad node", True),
        ({**KILLED, **BAD, "num_requeues": 10, "last_step": 10}, "waiting", "bad node", True),
        ({**KILLED, **BAD, "has_other_nodes": False}, "waiting", "bad node", True),
        ({**KILLED, **BAD, "max_requeues": 0}, "failed", "bad node", False),
        ({**KILLED, **BAD, "asked_by_user": True}, "stopped", "stop", False),
        ({**KILLED, **BAD, "cancelled": "scancel"}, "stopped", "scancel", False),
    ],
)
def test_every_end_of_a_start_is_distinguished(change: dict[str, Any], state: str, cause: str, requeue: bool) -> None:
    ending = decide(replace(STOPPED, **change))
    assert (ending.state, ending.cause, ending.requeue) == (state, cause, requeue)


def test_an_ending_says_where_and_what_to_do() -> None:
    bad = replace(STOPPED, **BAD)
    assert decide(bad).text == "node2 is slow, node7 is sick; requeued without node2, node7"
    assert decide(replace(bad, has_other_nodes=False)).text.endswith("but there are no other nodes; requeued")
    assert decide(STOPPED).text == "stopped at step 40 because of the time limit; requeued (3 of 10)"
    assert decide(replace(STOPPED, last_step=10)).text.endswith(
        "without a single step; raise job.time_limit (sbatch --time)"
    )
    killed = replace(STOPPED, **KILLED, **AGAIN)
    assert decide(replace(killed, place=HERE)).text == "failed at step 40; restarting in this job in 5 s (restart 1)"
    assert decide(replace(killed, place=Queue("so"))).text == "failed at step 40; requeued (restart 1), because so"
    lost = replace(STOPPED, **KILLED, **LOST)
    text = "lost node2 at step 40; restarting in this job on node1, node3"
    assert decide(replace(lost, place=HERE)).text == text
    assert decide(replace(lost, place=Queue("so"))).text == "lost node2 at step 40 (so); requeued"
    too_late = replace(STOPPED, stopped=False, cancelled="time limit")
    assert decide(too_late).text.endswith("had no time to save a checkpoint: raise job.stop_lead_s")


# As slurmstepd 22.05 writes it to the job's output.
AT = "slurmstepd-node1: error: *** JOB 8 ON node1 CANCELLED AT 2026-11-24T07:30:45"
STEP = "slurmstepd-node1: error: *** STEP 8.0 ON node1 CANCELLED AT 2026-11-24T07:30:45 ***\n"


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (f"{STEP}{AT} ***\n", "scancel"),
        (f"{AT} DUE to SIGNAL Terminated ***\n", "scancel"),
        (f"{AT} DUE TO PREEMPTION ***\n", "preemption"),
        (f"{AT} DUE TO JOB REQUEUE ***\n{STEP}", "requeue"),
        (f"{AT} DUE TO TIME LIMIT ***\n", "time limit"),
        (f"{AT} DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***\n", "node failure"),
        (f"{AT} DUE TO JOB REQUEUE ***\nstep 1\n{AT} DUE TO TIME LIMIT ***\n", "time limit"),
        (f"step 1\n{STEP}", None),
    ],
)
def test_slurms_last_word_is_understood(output: str, cause: str | None) -> None:
    assert parse_cancellation(output) == cause


def test_of_a_starts_events_the_first_and_the_last_step_count() -> None:
    events = [{"event": kind, "step": step} for kind, step in [("start", 4), ("step", 5), ("eval", 5), ("step", 6)]]
    assert steps_of(events) == (4, 6, False)
    assert steps_of([*events, {"event": "stopped", "step": 6}]) == (4, 6, True)
    assert steps_of([{"event": "phase", "name": "loading the model"}]) == (None, None, False)


def test_a_status_is_read_as_it_was_written() -> None:
    start = Start(job="7", restart=0, nodes="node[1-2]", began=1.0, output="/x/slurm-7.out", output_bytes=12)
    over = ended(start, decide(STOPPED), STOPPED, 9.0)
    assert (over.state, over.cause, over.first_step, over.last_step, over.ended) == ("waiting", "time limit", 10, 40, 9)
    assert parse_status(render_status([over, start])) == [over, start]


def test_a_restart_within_the_job_is_a_start_of_its_own() -> None:
    start = Start(job="7", restart=0, nodes="node[1-3]", began=1.0, output="/x/slurm-7.out", output_bytes=12)
    ending = decide(replace(STOPPED, **KILLED, **AGAIN, place=HERE))
    again = restarted(start, ending, 9.0, 345)
    assert (again.attempt, again.nodes, again.began, again.output_bytes) == (1, "node1,node3", 9.0, 345)
    assert (again.job, again.state, again.delay_s) == ("7", "running", 5.0)


def test_a_node_on_which_no_rank_could_start_is_read_from_the_jobs_output() -> None:
    output = (
        "shardtune: node2 is unfit: it does not see /r; …\nsrun: error: node2\nshardtune: node7 is unfit: it has 1 of"
    )
    assert parse_unfit(output) == {"node2": "unfit", "node7": "unfit"}
    assert parse_unfit("a row: shardtune: node2 is unfit: really\n") == {}


def test_what_a_later_version_adds_to_a_start_is_ignored() -> None:
    start = Start(job="7", restart=0, nodes="node1", began=1.0, output=None, output_bytes=0)
    assert parse_status(render_status([start]).replace('"job": "7"', '"job": "7", "added": 1')) == [start]
