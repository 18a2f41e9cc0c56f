"""How a start of ranks has ended, and the words for it."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from shardtune.run_dir.exit_codes import EXIT_ANEW, EXIT_RESUME


@dataclass(frozen=True)
class StartOutcome:
    """What is known of how a start has ended."""

    failure: dict[str, Any] | None
    """What the first rank to end wrote down."""
    exits: dict[int, int]
    hung: list[Path]
    """Where ranks without progress say where they stood."""
    silence_s: float | None
    """For how long no rank at all made progress, if they were ended for that."""
    has_begun: bool = True
    """Whether the training had begun; before it, another key says how long is too long."""

    @property
    def killed(self) -> dict[int, int]:
        """The signals of the ranks that were killed by one, but for those that torchrun ended itself."""
        return {rank: -code for rank, code in self.exits.items() if code < 0 and -code != signal.SIGTERM}

    @property
    def is_from_outside(self) -> bool:
        return bool(self.killed or self.hung or self.silence_s)

    @property
    def is_amended(self) -> bool:
        """Whether memory was short, and the first rank to end has written down how the next start does without it."""
        return self.failure is not None and self.failure.get("code") == EXIT_ANEW

    @property
    def is_stop(self) -> bool:
        """Whether a rank was asked to stop, and no rank had failed before."""
        if self.is_from_outside:
            return False
        return EXIT_RESUME in self.exits.values() if self.failure is None else self.failure.get("code") == EXIT_RESUME


def explain_outcome(death: StartOutcome, log_path: Path, remedy: str) -> str:
    """Why the job ended, the first cause first. The remedy is what helps a rank for which the machine has no memory."""
    # A rank that was killed writes nothing down, and its peers then complain of the lost connection: it goes first.
    lines = [
        f"rank {rank} was killed by signal {number} ({signal.strsignal(number)})"
        + (f"; was memory short? See dmesg, and {remedy}" if number == signal.SIGKILL else "")
        for rank, number in death.killed.items()
    ]
    key = "faults.hang_s" if death.has_begun else "faults.startup_hang_s"
    where = "" if death.has_begun else " before the training began"
    if death.hung:
        stacks = "\n  ".join(map(str, death.hung))
        lines = [f"there was no progress{where} for longer than {key}; this is where the ranks stood:\n  {stacks}"]
    elif death.silence_s:
        lines = [f"no rank has made progress{where} for {death.silence_s:.0f} s ({key}), nor said where it stood"]
    elif death.failure is not None and not lines:
        its = death.failure
        lines.append(f"rank {its['rank']} on {its['host']} failed:\n{its['text'].rstrip()}")
    if not lines:
        lines.append(f"the job failed: {_tail(log_path)}")
    return "\n".join([*lines, f"logs: {log_path.parent}"])


def remedy_for_killed(micro_batch_tokens: int | Literal["auto"], max_tokens: int, found: int | None) -> str:
    """What lets ranks that the kernel has killed for lack of memory get along with less.

    They leave no word, so that auto does not fall by itself; `found` is what it stands for in the run, if it is known.
    """
    if micro_batch_tokens != "auto":
        return f"lower train.micro_batch_tokens ({micro_batch_tokens})"
    if found is None:
        return f"give a number instead of train.micro_batch_tokens=auto: {max_tokens} (data.max_tokens) is the least"
    if found <= max_tokens:
        return (
            f"lower data.max_tokens, for train.micro_batch_tokens, whose auto is {found} here, cannot be less; or "
            "shard over more ranks (engine.deepspeed=zero3)"
        )
    return (
        f"give half of what train.micro_batch_tokens=auto is here ({found}): "
        f"train.micro_batch_tokens={max(found // 2, max_tokens)}; a kill from outside does not halve it"
    )


def _tail(path: Path, num_lines: int = 20) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
