"""Commands to paste into a shell."""

import shlex
from pathlib import Path


def shell_line(*words: str | Path) -> str:
    """`shardtune` and these words, quoted where a shell needs it."""
    return shlex.join(["shardtune", *map(str, words)])
