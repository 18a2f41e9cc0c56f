"""What a word of the command line turns into."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """What is to be done, once every argument is known to be good; returns the exit code."""

    perform: Callable[[], int]

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
