"""The report of a start that has ended: the first cause, and what to do about it."""

import signal
from pathlib import Path

import pytest

from shardtune.launcher.start.exit_report import StartOutcome, explain_outcome, remedy_for_killed

LOG = Path("/runs/r/logs/launcher.log")


def test_a_hang_names_the_key_that_sets_its_limit() -> None:
    stacks = [Path("/runs/r/logs/rank-1.stacks.txt")]
    training, starting = (StartOutcome(None, {0: 1, 1: 1}, stacks, None, has_begun) for has_begun in (True, False))
    assert explain_outcome(training, LOG, "").startswith(
        "no progress for longer than faults.hang_s; stack traces of the ranks:"
    )
    assert explain_outcome(starting, LOG, "").startswith(
        "no progress before the training began for longer than faults.startup_hang_s; stack traces of the ranks:"
    )
    frozen = StartOutcome(None, {}, [], 1861.2, has_begun=False)
    assert explain_outcome(frozen, LOG, "").startswith(
        "no rank made progress before the training began for 1861 s (faults.startup_hang_s), and none wrote a stack"
    )


@pytest.mark.parametrize(
    ("micro_batch_tokens", "found", "remedy"),
    [
        (4096, None, "lower train.micro_batch_tokens (4096)"),
        ("auto", None, "set a number instead of train.micro_batch_tokens=auto, at least 512 (data.max_tokens)"),
        ("auto", 4096, "set train.micro_batch_tokens=2048: auto, which is 4096 here, does not shrink after a kill"),
        ("auto", 700, "set train.micro_batch_tokens=512: auto, which is 700 here, does not shrink after a kill"),
        ("auto", 512, "lower data.max_tokens: train.micro_batch_tokens=auto (512 here) cannot be less than that"),
    ],
)
def test_a_rank_that_the_kernel_may_have_killed_for_its_memory_comes_with_advice(
    micro_batch_tokens: int, found: int | None, remedy: str
) -> None:
    words = remedy_for_killed(micro_batch_tokens, 512, found)  # type: ignore[arg-type]
    assert words.startswith(remedy)
    killed = StartOutcome(None, {0: -signal.SIGTERM, 1: -signal.SIGKILL}, [], None)
    assert explain_outcome(killed, LOG, words).splitlines()[0] == (
        f"rank 1 was killed by signal 9 (Killed); if dmesg says that memory ran out, {words}"
    )
    crashed = StartOutcome(None, {1: -signal.SIGSEGV}, [], None)
    assert "memory" not in explain_outcome(crashed, LOG, words)


def test_a_rank_that_failed_is_named_with_its_machine_and_the_machines_number_of_its_gpu() -> None:
    failure = {"rank": 3, "host": "node1", "text": "CUDA error: uncorrectable ECC error encountered\n"}
    outcome = StartOutcome({**failure, "gpu": 6}, {3: 1}, [], None)
    assert explain_outcome(outcome, LOG, "").splitlines()[0] == "rank 3 on node1 (GPU 6) failed:"
    outcome = StartOutcome(failure, {3: 1}, [], None)
    assert explain_outcome(outcome, LOG, "").splitlines()[0] == "rank 3 on node1 failed:"
