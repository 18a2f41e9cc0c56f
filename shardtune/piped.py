"""Commands whose output is read by another program, which may stop reading (`| head`)."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn


def run_piped(main: Callable[[], int]) -> NoReturn:
    """Exits with the code that `main` returns; with 0, and in silence, once nobody reads its output any more."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        forget_output()
        code = 0
    sys.exit(code)


def forget_output() -> None:
    """Sends what is still to be written to nowhere; otherwise Python complains about it when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
