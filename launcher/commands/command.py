"""What a subcommand of the command line returns, and checks of its flags."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from shardtune.errors import ConfigError


@dataclass(frozen=True)
class Command:
    """An action to perform after all arguments have been checked."""

    perform: Callable[[], int]
    """Performs it and returns the exit code."""

    def __dir__(self) -> list[str]:
        return []  # Fire offers an object's members as further commands; there are none


def refuse_values(**flags: str) -> None:
    """Raises ConfigError if a flag that takes no value was given one."""
    for name, value in flags.items():
        if value not in ("True", "False"):
            raise ConfigError(f"shardtune: --{name.replace('_', '-')} takes no value, got {value!r}")


def refuse_words(**values: str | None) -> None:
    """Raises ConfigError if a flag that takes a number was given something else."""
    for name, value in values.items():
        if value is not None and not value.isdecimal():
            raise ConfigError(f"shardtune: --{name.replace('_', '-')} takes a number, got {value!r}")


def refuse_with_several(**given: bool) -> None:
    """Raises ConfigError if a flag that only a single run can have was given."""
    for name, is_given in given.items():
        if is_given:
            raise ConfigError(
                f"shardtune: --{name.replace('_', '-')} is of a single run; train.seeds and --fractions make several; "
                "remove one of them"
            )


def refuse_split_ranks(ranks: str | None, split_model: str) -> None:
    """Raises ConfigError for several ranks of a model that is divided over the GPUs, which one process has all."""
    if split_model == "True" and ranks not in (None, "1"):
        raise ConfigError("shardtune: --split-model: one process uses all GPUs; remove --ranks")


def say_at_once(text: str) -> None:
    """Says what is begun, because the imports of the trainer take seconds; not on stdout, which is for the result."""
    print(text, file=sys.stderr, flush=True)
