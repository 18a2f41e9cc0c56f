"""How a start of ranks has ended, and the words for it."""

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config.run_dir import EXIT_ANEW, EXIT_RESUME


@dataclass(frozen=True)
class Death:
    """What is known of how a start has ended."""

    failure: dict[str, Any] | None
    """What the first rank to end wrote down."""
    exits: dict[int, int]
    hung: list[Path]
    """Where ranks without progress say where they stood."""
    silence_s: float | None
    """For how long no rank at all made progress, if they were ended for that."""

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


def obituary(death: Death, log_path: Path) -> str:
    """Why the job ended, the first cause first."""
    # A rank that was killed writes nothing down, and its peers then complain of the lost connection: it goes first.
    lines = [
        f"rank {rank} was killed by signal {number} ({signal.strsignal(number)})"
        + ("; was memory short? See dmesg, and lower train.micro_batch_tokens" if number == signal.SIGKILL else "")
        for rank, number in death.killed.items()
    ]
    if death.hung:
        stacks = "\n  ".join(map(str, death.hung))
        lines = [f"there was no progress for longer than faults.hang_s; this is where the ranks stood:\n  {stacks}"]
    elif death.silence_s:
        lines = [f"no rank has made progress for {death.silence_s:.0f} s (faults.hang_s), nor said where it stood"]
    elif death.failure is not None and not lines:
        its = death.failure
        lines.append(f"rank {its['rank']} on {its['host']} failed:\n{its['text'].rstrip()}")
    if not lines:
        lines.append(f"the job failed: {_tail(log_path)}")
    return "\n".join([*lines, f"logs: {log_path.parent}"])


def _tail(path: Path, num_lines: int = 20) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
