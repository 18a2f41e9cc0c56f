"""How a start of the ranks ended, and the message that explains it."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shardtune.run_dir.exit_codes import EXIT_RESTART, EXIT_RESUME
from shardtune.run_dir.files import failed_rank


@dataclass(frozen=True)
class StartOutcome:
    """What is known about how a start ended."""

    failure: dict[str, Any] | None
    """What the first rank that failed recorded."""
    exits: dict[int, int]
    hung: list[Path]
    """The stack traces of ranks that made no progress."""
    silence_s: float | None
    """For how long no rank made progress, if the launcher ended them for that reason."""
    has_begun: bool = True
    """Whether the training had begun; before that, another key sets the limit."""

    @property
    def killed(self) -> dict[int, int]:
        """The signal that killed each rank, without the ranks that torchrun ended itself."""
        return {rank: -code for rank, code in self.exits.items() if code < 0 and -code != signal.SIGTERM}

    @property
    def is_from_outside(self) -> bool:
        return bool(self.killed or self.hung or self.silence_s)

    @property
    def is_amended(self) -> bool:
        """Whether memory was short, and the first rank that failed has recorded how the next start needs less."""
        return self.failure is not None and self.failure.get("code") == EXIT_RESTART

    @property
    def is_stop(self) -> bool:
        """Whether a rank was asked to stop and no rank had failed before."""
        if self.is_from_outside:
            return False
        return EXIT_RESUME in self.exits.values() if self.failure is None else self.failure.get("code") == EXIT_RESUME


def explain_outcome(outcome: StartOutcome, log_path: Path, remedy: str) -> str:
    """Why the job ended, and where its logs are; `remedy` is the advice for a rank that may have run out of memory."""
    return "\n".join([*causes(outcome, log_path, remedy), f"logs: {log_path.parent}"])


def causes(outcome: StartOutcome, log_path: Path, remedy: str) -> list[str]:
    """Why the job ended, the first cause first."""
    # A killed rank records nothing, and its peers then complain about the lost connection: it comes first.
    lines = [
        f"rank {rank} was killed by signal {number} ({signal.strsignal(number)})"
        + (f"; if dmesg says that memory ran out, {remedy}" if number == signal.SIGKILL else "")
        for rank, number in outcome.killed.items()
    ]
    key = "faults.hang_s" if outcome.has_begun else "faults.startup_hang_s"
    where = "" if outcome.has_begun else " before the training began"
    if outcome.hung:
        stacks = "\n  ".join(map(str, outcome.hung))
        lines = [f"no progress{where} for longer than {key}; stack traces of the ranks:\n  {stacks}"]
    elif outcome.silence_s:
        lines = [f"no rank made progress{where} for {outcome.silence_s:.0f} s ({key}), and none wrote a stack trace"]
    elif outcome.failure is not None and not lines:
        failure = outcome.failure
        lines.append(f"{failed_rank(failure)} failed:\n{failure['text'].rstrip()}")
    if not lines:
        lines.append(f"the job failed: {_tail(log_path)}")
    return lines


def remedy_for_killed(micro_batch_tokens: int | Literal["auto"], max_tokens: int, found: int | None) -> str:
    """The advice for ranks that the kernel killed for lack of memory.

    Such ranks record nothing, so that `auto` does not shrink by itself; `found` is its value in the run, if known.
    """
    if micro_batch_tokens != "auto":
        return f"lower train.micro_batch_tokens ({micro_batch_tokens})"
    if found is None:
        return f"set a number instead of train.micro_batch_tokens=auto, at least {max_tokens} (data.max_tokens)"
    if found <= max_tokens:
        return (
            f"lower data.max_tokens: train.micro_batch_tokens=auto ({found} here) cannot be less than that; or shard "
            "over more ranks (engine.deepspeed=zero3)"
        )
    return (
        f"set train.micro_batch_tokens={max(found // 2, max_tokens)}: auto, which is {found} here, does not shrink "
        "after a kill"
    )


def _tail(path: Path, num_lines: int = 20) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
