"""The status of a run follows from its directory and the queue, whichever of them knows more."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardtune.launcher.runs.status import RunEvidence, RunStatus, as_json, render_run, render_table, status_of
from shardtune.launcher.slurm.lifecycle import Start
from shardtune.launcher.slurm.text import QueuedJob
from tests.support.retained_run import events

JOB = QueuedJob(
    "12", "12", "PENDING", "Resources", "", 2, "0:00", "1:00:00", "2026-11-24T08:20:17", "main", "/runs/a"
)  # fmt: skip
RUNNING = replace(JOB, state="RUNNING", reason="None", nodes="node[1-2]", time_left="42:00")
START = Start(job="12", restart=0, nodes="node[1-2]", began=1.0, output=None, output_bytes=0)
EVENTS: list[dict[str, Any]] = [
    {"event": "start", "step": 0, "num_steps": 900},
    {"event": "phase", "name": "evaluating on dev"},
    {"event": "eval", "split": "dev", "step": 3, "loss": 0.5, "accuracy": 0.75, "confusion": [[1]], "time": 1.5},
    {"event": "phase", "name": None},
    {"event": "step", "step": 4, "loss": 0.25, "eta_s": 125.0},
]
TRAINS = {"event": "phase", "name": None, "time": 9.0}
AGAIN = replace(START, nodes="node1", attempt=1, began=3.0)
NEW = RunEvidence(run_dir=Path("/runs/a"), starts=[], events=[], finished=False, running_here=False, submitted_as=None)


def ended(state: Any, cause: Any) -> Start:
    return replace(START, state=state, cause=cause, ended=2.0)


@pytest.mark.parametrize(
    ("evidence", "job", "state", "why"),
    [
        ({}, None, "new", ""),
        ({"events": [*EVENTS, {"event": "stopped", "reason": "SIGTERM"}]}, None, "stopped", "SIGTERM"),
        ({"events": EVENTS, "failure": "model.path: no"}, None, "failed", "model.path: no"),
        ({"events": EVENTS}, None, "lost", "its process ended without recording why; to resume: shardtune run /runs/a"),
        ({}, JOB, "pending", "waiting for free nodes; expected to start at 2026-11-24T08:20:17"),
        ({"starts": [ended("waiting", "preemption")]}, replace(JOB, reason="BeginTime", starts_at="N/A"), "waiting",
         "requeued; it starts again soon"),
        ({}, RUNNING, "running", "starting, 42:00 of the time limit left"),
        ({"starts": [START], "events": EVENTS}, RUNNING, "running", "training, 42:00 of the time limit left"),
        ({"starts": [START], "events": EVENTS[:2]}, RUNNING, "running",
         "evaluating on dev, 42:00 of the time limit left"),
        ({"starts": [ended("restarting", "hang"), AGAIN], "events": EVENTS}, RUNNING, "running",
         "restarting the ranks on node1 after: hang, 42:00 of the time limit left"),
        ({"starts": [ended("restarting", "hang"), AGAIN], "events": [*EVENTS, TRAINS]}, RUNNING, "running",
         "training, 42:00 of the time limit left"),
        ({"starts": [ended("waiting", "failure")], "early_end": "job 9 ended"}, None, "failed", "job 9 ended"),
        ({"submitted_as": "9", "early_end": "job 9 ended"}, None, "failed", "job 9 ended"),
        ({"finished": True, "starts": [ended("finished", "finished")]}, None, "finished", ""),
        ({"running_here": True}, None, "running", "on this machine or another one, without Slurm"),
        ({"submitted_as": "9", "last_word": "CANCELLED, DependencyNeverSatisfied"}, None, "lost",
         "job 9 left the queue without starting (CANCELLED, DependencyNeverSatisfied)"),
        ({"submitted_as": "9", "last_word": "CANCELLED", "cancelled_by": "ada"}, None, "stopped",
         "cancelled as ada asked"),
        ({"starts": [ended("waiting", "time limit")], "cancelled_by": "ada"}, None, "stopped",
         "cancelled as ada asked"),
        ({"submitted_as": "9", "cancelled_by": "ada"}, JOB, "pending",
         "waiting for free nodes; expected to start at 2026-11-24T08:20:17"),
        ({"starts": [START], "last_word": "FAILED"}, None, "lost", "job 12 left the queue (FAILED)"),
        ({"starts": [START], "last_word": "CANCELLED"}, None, "stopped", "scancel"),
        ({"starts": [ended("waiting", "requeue")], "last_word": "NODE_FAIL, x"}, None, "stopped", "node failure"),
        ({"starts": [ended("waiting", "time limit")]}, None, "lost",
         "job 12 left the queue (Slurm no longer knows why)"),
        ({"starts": [ended("stopped", "scancel")]}, None, "stopped", "scancel"),
        ({"starts": [ended("failed", "failure")]}, None, "failed", "failure"),
    ],
)  # fmt: skip
def test_every_state_is_distinguished(evidence: dict[str, Any], job: QueuedJob | None, state: str, why: str) -> None:
    status = status_of(replace(NEW, **evidence), job)
    assert (status.state, status.why) == (state, why)


@pytest.fixture
def training() -> RunStatus:
    starts = [ended("waiting", "preemption"), ended("waiting", "node failure"), START]
    return status_of(replace(NEW, starts=starts, events=EVENTS), RUNNING)


def test_a_run_has_its_step_its_time_left_its_metrics_and_what_came_between(training: RunStatus) -> None:
    assert (training.step, training.num_steps, training.eta_s) == (4, 900, 125.0)
    assert training.metrics == {"loss": 0.25, "dev/loss": 0.5, "dev/accuracy": 0.75}
    assert (training.num_starts, training.causes) == (3, ("preemption", "node failure"))
    assert (
        render_run(training)
        == """\
run      /runs/a
state    running: training, 42:00 of the time limit left
job      12 on node[1-2]
step     4 of 900
left     2:05
metrics  loss 0.2500  dev/loss 0.5000  dev/accuracy 0.7500
starts   3, requeued after: preemption, node failure"""
    )


def test_restarts_within_a_job_are_told_from_requeues() -> None:
    starts = [ended("waiting", "time limit"), ended("restarting", "node failure"), replace(AGAIN, began=1.0)]
    run = status_of(replace(NEW, starts=starts, events=EVENTS), RUNNING)
    assert (run.causes, run.restarts) == (("time limit",), ("node failure",))
    line = "starts   3, requeued after: time limit, restarted within the job after: node failure"
    assert render_run(run).splitlines()[-1] == line


def test_the_table_has_a_line_for_each_run(training: RunStatus) -> None:
    assert (
        render_table([training, status_of(NEW, None)])
        == """\
RUN  STATE    JOB  NODES      STEP   LEFT  LOSS    STARTS  WHY
a    running  12   node[1-2]  4/900  2:05  0.2500  3       training, 42:00 of the time limit left
a    new"""
    )


def test_the_table_tells_apart_the_points_of_sweeps_and_runs_of_one_name() -> None:
    paths = ["/a/sweep/0", "/a/sweep/1", "/b/sweep/0", "/b/lr/10", "/a/chat", "/b/chat", "/b/ner"]
    table = render_table([status_of(replace(NEW, run_dir=Path(path)), None) for path in paths])
    names = ["a/sweep/0", "sweep/1", "b/sweep/0", "lr/10", "a/chat", "b/chat", "ner"]
    assert [line.split()[0] for line in table.splitlines()[1:]] == names


def test_what_is_retained_is_a_line_and_in_the_json_in_full() -> None:
    run = status_of(replace(NEW, events=events()), None)
    line = next(line for line in render_run(run).splitlines() if line.startswith("retains"))
    assert line.split(maxsplit=1)[1] == (
        "news accuracy 0.8280 (-0.0720)  questions accuracy 0.7700 (-0.0300)  wiki perplexity 17.4000 (+5.4000)"
    )
    assert json.loads(json.dumps(as_json(run)))["retention"][2]["before"] == 12.0
    assert "retains" not in render_run(status_of(replace(NEW, events=EVENTS), None))
