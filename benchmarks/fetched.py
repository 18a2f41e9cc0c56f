"""What a benchmark measures on, fetched on its first call: a command is all it takes."""

import sys
from collections.abc import Callable

from demo.fetch import FetchError


def fetched(*prepares: Callable[[], object]) -> None:
    """Lets each part of the demo fetch what it reads; ends the process with a line if one cannot."""
    try:
        for prepare in prepares:
            prepare()
    except FetchError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise SystemExit(2) from None
