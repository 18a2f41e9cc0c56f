"""What a subcommand of the command line returns, and checks of its flags."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """An action to perform after all arguments have been checked."""

    perform: Callable[[], int]
    """Performs it and returns the exit code."""

    def __dir__(self) -> list[str]:
        return []  # Fire offers an object's members as further commands; there are none


def refuse_values(**flags: str) -> None:
    """Raises SystemExit if a flag that takes no value was given one."""
    for name, value in flags.items():
        if value not in ("True", "False"):
            raise SystemExit(f"shardtune: --{name.replace('_', '-')} takes no value, got {value!r}")


def refuse_words(**values: str | None) -> None:
    """Raises SystemExit if a flag that takes a number was given something else."""
    for name, value in values.items():
        if value is not None and not value.isdecimal():
            raise SystemExit(f"shardtune: --{name.replace('_', '-')} takes a number, got {value!r}")
