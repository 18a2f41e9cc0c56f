"""Who failed first: the rank that was killed, not those that it left; and who was only ended by srun."""

from typing import Any

import pytest

from shardtune.launcher.slurm.step_exits import (
    NodeExit,
    RankExit,
    find_culprit,
    is_stop,
    output_tail,
    parse_lost_nodes,
    parse_node_exits,
    parse_rank_exits,
)

# As torchrun (2.13) writes it.
TABLE = """\
E1129 23:07:11.663000 35 api.py:1002] failed (exitcode: -9) local_rank: 0 (pid: 39) of binary: /venv/bin/python
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
===================================================
shardtune.trainer FAILED
---------------------------------------------------
Failures:
[1]:
  time      : 2026-11-29_23:07:12
  host      : node2.cluster
  rank      : 3 (local_rank: 1)
  exitcode  : 1 (pid: 40)
  error_file: <N/A>
---------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-29_23:07:11
  host      : node2.cluster
  rank      : 2 (local_rank: 0)
  exitcode  : -9 (pid: 39)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 39
===================================================
"""
SRUN = """\
srun: error: node2: task 1: Exited with exit code 1
srun: launch/slurm: _step_signal: Terminating StepId=1.0
slurmstepd-node1: error: *** STEP 1.0 ON node1 CANCELLED AT 2026-11-29T23:07:11 ***
srun: error: node[1,3]: tasks 0,2: Terminated
"""


def record(rank: int, code: int, text: str, time: float) -> dict[str, Any]:
    return {"rank": rank, "host": f"node{rank + 1}", "code": code, "text": text, "time": time}


TERM = record(0, 75, "stopped by SIGTERM before there was anything to save; run it again to resume", 1.0)
GLOO = record(0, 1, "RuntimeError: Connection reset by peer", 2.0)


def test_torchrun_and_srun_report_how_ranks_and_nodes_ended() -> None:
    assert parse_rank_exits(TABLE) == [RankExit(3, "node2", 1), RankExit(2, "node2", -9)]
    assert parse_rank_exits(f"{TABLE}Unable to shutdown process 39 via 15, forcefully exiting via 9\n")[1].code == -15
    assert parse_node_exits(SRUN) == [NodeExit("node2", "Exited with exit code 1")]
    assert parse_lost_nodes("srun: error: Node failure on node[3-4]\n") == {"node3", "node4"}


def test_a_killed_rank_comes_before_the_records_of_those_it_left() -> None:
    culprit = find_culprit([GLOO], parse_rank_exits(TABLE), parse_node_exits(SRUN), SRUN)
    assert culprit.text == "rank 2 on node2 was killed by signal 9 (Killed)"
    assert culprit.is_killed and culprit.code is None


def test_a_rank_that_a_library_aborts_because_its_peer_is_gone_comes_after_the_peers_record() -> None:
    aborted = [RankExit(3, "node2", -6)]
    assert find_culprit([GLOO], aborted, [], "").text.startswith("rank 0 on node1 failed first:\nRuntimeError: Conn")
    assert find_culprit([], aborted, [], "").text == "rank 3 on node2 was killed by signal 6 (Aborted)"


def test_a_rank_that_ended_before_it_could_record_why_is_named() -> None:
    culprit = find_culprit([TERM], [RankExit(1, "node2", 2)], parse_node_exits(SRUN), SRUN)
    assert (culprit.rank, culprit.is_killed, culprit.code) == (1, False, 2)
    assert culprit.text == "rank 1 on node2 failed first: exit code 2, without a record"


def test_the_end_of_an_output_is_what_came_before_torchrun_and_srun_told_of_it() -> None:
    assert output_tail(f"loading\n/r: not a run directory\n{TABLE}{SRUN}") == "loading\n/r: not a run directory"
    assert output_tail(f"/r: not\n{SRUN}") == "/r: not"


def test_of_records_the_first_failure_counts_and_no_stop() -> None:
    first = record(1, 2, "data.train: no", 1.5)
    culprit = find_culprit([TERM, first, GLOO], [], parse_node_exits(SRUN), SRUN)
    assert (culprit.text, culprit.code) == ("rank 1 on node2 failed first:\ndata.train: no", 2)


def test_a_node_on_which_no_rank_began_is_named_with_the_end_of_the_output() -> None:
    output = "bash: /venv/bin/python: No such file\nsrun: error: node2: task 1: Exited with exit code 127\n"
    assert find_culprit([TERM], [], parse_node_exits(output), output).text == (
        "node2 failed first (exited with exit code 127), before a rank recorded anything; the end of the output:\n"
        "bash: /venv/bin/python: No such file"
    )
    assert find_culprit([], [], [NodeExit("node2", "Killed")], "").is_killed
    assert find_culprit([], [], [], "oh\n").text == "no rank recorded a failure; the end of the output:\noh"


@pytest.mark.parametrize(
    ("text", "exits", "was_signalled", "is_one"),
    [
        ("stopped by SIGTERM before", [], False, False),  # srun's
        ("stopped by SIGTERM before", [RankExit(0, "node1", 1)], False, False),
        ("stopped by SIGTERM before", [RankExit(0, "node1", 75)], False, True),  # a user's, to this rank alone
        ("stopped by SIGTERM before", [], True, True),
        ("stopped by /runs/r/stop before", [], False, True),
        ("stopped by faults.stop_after_minutes before", [], False, True),
    ],
)
def test_sruns_sigterm_is_no_stop_request(text: str, exits: list[RankExit], was_signalled: bool, is_one: bool) -> None:
    assert is_stop(record(0, 75, text, 1.0), exits, was_signalled=was_signalled) == is_one
    assert not is_stop(record(0, 1, text, 1.0), exits, was_signalled=was_signalled)
