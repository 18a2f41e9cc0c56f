"""Fetching the data of a benchmark when it is first run, so that no other command is needed."""

import sys
from collections.abc import Callable

from demo.fetch import FetchError


def fetched(*prepares: Callable[[], object]) -> None:
    """Fetches the data of these parts of the demo; ends the process with one line if that fails."""
    try:
        for prepare in prepares:
            prepare()
    except FetchError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise SystemExit(2) from None
