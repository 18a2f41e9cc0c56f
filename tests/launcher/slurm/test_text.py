"""Slurm's words, read and written."""

import pytest

from shardtune.errors import LaunchError
from shardtune.launcher.slurm.allocation import parse_allocation, parse_details, parse_time
from shardtune.launcher.slurm.text import (
    Nodes,
    QueuedJob,
    explain_reason,
    explain_refusal,
    output_pattern,
    parse_duration,
    parse_gpus,
    parse_node_list,
    parse_nodes,
    parse_queue,
    parse_submitted,
    parse_test,
    partitions,
    quote_option,
)

SINFO = """\
main*|14|8|64000|gpu:2|infinite|n/a
big|2|128+|1031000+|gpu:a100:8(S:0-1),shard:32|2-00:00:00|1:00:00
cpu|1|4|2048|(null)|30:00|n/a
"""


def test_what_sinfo_says_of_the_nodes() -> None:
    assert parse_nodes(SINFO) == [
        Nodes("main", True, 14, 8, 64000, 2, None),
        Nodes("big", False, 2, 128, 1031000, 8, 2 * 86400, 3600, "a100"),
        Nodes("cpu", False, 1, 4, 2048, 0, 1800),
    ]
    assert next(partitions(parse_nodes(SINFO))) == "main (default): 14 nodes of 8 CPUs, 62 GiB, 2 GPUs"


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("(null)", []),
        ("", []),
        ("node1", ["node1"]),
        ("node[1-2]", ["node1", "node2"]),
        ("node[1,3-4],x9", ["node1", "node3", "node4", "x9"]),
        ("gpu[08-10]-ib", ["gpu08-ib", "gpu09-ib", "gpu10-ib"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
    ],
)
def test_a_list_of_nodes_is_read_in_its_short_form(text: str, nodes: list[str]) -> None:
    assert parse_node_list(text) == nodes


@pytest.mark.parametrize(
    ("gres", "gpus"), [("(null)", 0), ("gpu:4", 4), ("gpu", 1), ("gpu:v100:2,gpu:a100:6(S:0,1)", 8), ("shard:3", 0)]
)
def test_the_gpus_among_the_generic_resources_are_counted(gres: str, gpus: int) -> None:
    assert parse_gpus(gres) == gpus


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1-02:03:04", 93784), ("2:03", 123), ("1:00:00", 3600), ("59", 59), ("infinite", None), ("UNLIMITED", None)],
)
def test_a_duration_is_read_in_every_form(text: str, seconds: int | None) -> None:
    assert parse_duration(text) == seconds


def test_what_squeue_says_of_a_job_whatever_its_comment_holds() -> None:
    line = "12|12|PENDING|Resources||2|0:00|1:00:00|2026-11-24T08:20:17|main|/runs/a|b"
    assert parse_queue(f"{line}\n") == [
        QueuedJob(
            "12", "12", "PENDING", "Resources", "", 2, "0:00", "1:00:00", "2026-11-24T08:20:17", "main", "/runs/a|b"
        )
    ]


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Resources", "waiting for free nodes"),
        ("QOSMaxGRESPerUser", "a limit of your account or QOS is reached (QOSMaxGRESPerUser)"),
        ("ReqNodeNotAvail, UnavailableNodes:node1", "the nodes that it needs are down or reserved"),
        ("SomethingNew", "SomethingNew"),
    ],
)
def test_why_a_job_waits_is_explained_in_plain_words(reason: str, message: str) -> None:
    assert explain_reason(reason) == message


@pytest.mark.parametrize(
    ("message", "means"),
    [
        ("sbatch: error: invalid partition specified: x\nallocation failure: Invalid partition name specified\n",
         "job.partition: unknown partition"),
        ("allocation failure: Invalid feature specification\n", "job.constraint: no node has this feature"),
        ("sbatch: error: Batch job submission failed: Requested node configuration is not available\n", "job.nodes, "),
        ("sbatch: error: Batch job submission failed: Requested time limit is invalid (exceeds some limit)\n",
         "job.time_limit: "),
        ("sbatch: error: Out of cheese\n", "sbatch refused the job: Out of cheese"),
    ],
)  # fmt: skip
def test_a_refusal_is_explained_in_plain_words_before_those_of_sbatch(message: str, means: str) -> None:
    assert explain_refusal(message).startswith(means)
    assert message.splitlines()[-1].split(": ")[-1] in explain_refusal(message)


def test_a_jobs_number_is_taken_from_the_output_of_sbatch() -> None:
    assert parse_submitted("17\n") == parse_submitted("17;lab\n") == "17"
    with pytest.raises(LaunchError, match="expected a job number from sbatch, got 'hm'"):
        parse_submitted("hm")


def test_the_expected_start_is_taken_from_the_test_of_sbatch() -> None:
    message = (
        "sbatch: Job 5 to start at 2026-11-24T08:20:17 a using 2 processors on nodes node[1-2] in partition main\n"
    )
    assert parse_test(message) == "2026-11-24T08:20:17 on node[1-2]"
    assert parse_test("sbatch: ok") is None


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--nodes=2", "--nodes=2"),
        ("--constraint=a100&ib", '"--constraint=a100&ib"'),
        ("--comment=a'; touch pwned #", '"--comment=a\'; touch pwned #"'),
        ('--comment="\\', r'"--comment=\"\\"'),
    ],
)
def test_an_option_is_quoted_as_sbatch_reads_it(option: str, line: str) -> None:
    assert quote_option(option) == line


def test_an_option_of_several_lines_is_refused() -> None:
    with pytest.raises(LaunchError, match="printable characters only"):
        quote_option("--comment=a\n#SBATCH --nodes=100")


def test_a_percent_sign_in_a_path_is_escaped() -> None:
    from pathlib import Path

    assert output_pattern(Path("/a/50%j")) == "/a/50%%j"
    with pytest.raises(LaunchError, match="backslash"):
        output_pattern(Path("/a\\b"))


DETAILS = (
    "JobId=3 JobName=a b UserId=root(0) JobState=RUNNING Reason=None Restarts=1 PreemptTime=2026-11-24T07:31:32 "
    "NtasksPerN:B:S:C=1:0:*:* Command=/x/finetune.sh r.yaml task.text=JobState=X StdOut=/x y/slurm-3.out Power=\n"
)


def test_what_scontrol_says_of_a_job() -> None:
    details = parse_details(DETAILS)
    assert details["JobName"] == "a b"
    assert details["JobState"] == "RUNNING"
    assert details["StdOut"] == "/x y/slurm-3.out"
    assert parse_details("") == {}


def test_a_time_is_read_and_an_unknown_one_is_none() -> None:
    assert parse_time("2026-11-24T07:31:33") - parse_time("2026-11-24T07:31:32") == 1  # type: ignore[operator]
    assert parse_time("Unknown") is parse_time("") is None


def test_what_slurm_has_given_is_in_the_environment() -> None:
    environment = {
        "SLURM_JOB_ID": "3", "SLURM_RESTART_COUNT": "2", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_GPUS_ON_NODE": "8", "SLURM_CPUS_ON_NODE": "64",
    }  # fmt: skip
    allocation = parse_allocation(environment, DETAILS)
    assert (allocation.job, allocation.restart, allocation.nodes, allocation.num_nodes) == ("3", 2, "node[1-2]", 2)
    assert (allocation.machine.num_gpus, allocation.machine.num_cores) == (8, 64)
    with pytest.raises(LaunchError, match="not inside a Slurm job"):
        parse_allocation({}, "")


@pytest.mark.parametrize(
    ("requested", "num_gpus", "step_gpus"),
    [
        ("TresPerNode=gres:gpu:8", 8, None),
        ("TresPerNode=gres:gpu:2", 2, 2),
        ("TresPerNode=gres/gpu:a100:2", 2, 2),
        ("TresPerJob=gres:gpu:6", 3, 3),
        ("TresPerJob=gres:gpu:7", 8, None),  # one node has more than the other: that is found on the nodes
        ("TresPerTask=gres/gpu:8", 8, None),
        ("Features=(null)", 8, 8),  # --exclusive: a step that requests none gets none
    ],
)
def test_an_exclusive_job_has_the_gpus_that_it_requested_and_its_steps_get_them(
    requested: str, num_gpus: int, step_gpus: int | None
) -> None:
    environment = {"SLURM_JOB_ID": "3", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    allocation = parse_allocation(environment, f"JobId=3 {requested} Power=")
    assert (allocation.machine.num_gpus, allocation.step_gpus) == (num_gpus, step_gpus)
