"""Output of a command that makes one report: tables for people, or with --json one object, errors included."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from shardtune.errors import ShardtuneError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER

Report = TypeVar("Report", bound=Any)


def print_report(make: Callable[[], Report], show: Callable[[Report], None], *, as_json: bool) -> int:
    """Prints the report, a dataclass, and returns the exit code: EXIT_USER if `make` raises a ShardtuneError."""
    try:
        report = make()
    except ShardtuneError as error:
        if as_json:
            _print_json({"errors": str(error).split("\n")})
        print(error, file=sys.stderr)
        return EXIT_USER
    if as_json:
        _print_json(asdict(report))
    else:
        show(report)
    return EXIT_OK


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
