"""What is said of a start that has ended: the first cause, and what to do about it."""

import signal
from pathlib import Path

import pytest

from shardtune.launcher.start.exit_report import StartOutcome, explain_outcome, remedy_for_killed

LOG = Path("/runs/r/logs/launcher.log")


def test_a_hang_names_the_key_that_says_how_long_is_too_long() -> None:
    stacks = [Path("/runs/r/logs/rank-1.stacks.txt")]
    training, starting = (StartOutcome(None, {0: 1, 1: 1}, stacks, None, has_begun) for has_begun in (True, False))
    assert explain_outcome(training, LOG, "").startswith(
        "there was no progress for longer than faults.hang_s; this is where"
    )
    assert explain_outcome(starting, LOG, "").startswith(
        "there was no progress before the training began for longer than faults.startup_hang_s; this is where"
    )
    frozen = StartOutcome(None, {}, [], 1861.2, has_begun=False)
    assert explain_outcome(frozen, LOG, "").startswith(
        "no rank has made progress before the training began for 1861 s (faults.startup_hang_s), nor said"
    )


@pytest.mark.parametrize(
    ("micro_batch_tokens", "found", "remedy"),
    [
        (4096, None, "lower train.micro_batch_tokens (4096)"),
        ("auto", None, "give a number instead of train.micro_batch_tokens=auto: 512 (data.max_tokens) is the least"),
        ("auto", 4096, "give half of what train.micro_batch_tokens=auto is here (4096): train.micro_batch_tokens=2048"),
        ("auto", 700, "give half of what train.micro_batch_tokens=auto is here (700): train.micro_batch_tokens=512"),
        ("auto", 512, "lower data.max_tokens, for train.micro_batch_tokens, whose auto is 512 here, cannot be less"),
    ],
)
def test_a_rank_that_the_kernel_may_have_killed_for_its_memory_says_what_helps(
    micro_batch_tokens: int, found: int | None, remedy: str
) -> None:
    words = remedy_for_killed(micro_batch_tokens, 512, found)  # type: ignore[arg-type]
    assert words.startswith(remedy)
    killed = StartOutcome(None, {0: -signal.SIGTERM, 1: -signal.SIGKILL}, [], None)
    assert explain_outcome(killed, LOG, words).splitlines()[0] == (
        f"rank 1 was killed by signal 9 (Killed); was memory short? See dmesg, and {words}"
    )
    crashed = StartOutcome(None, {1: -signal.SIGSEGV}, [], None)
    assert "memory" not in explain_outcome(crashed, LOG, words)
