"""Output of a command that makes one report: tables for people, or with --json one object, errors included."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from shardtune.errors import ShardtuneError, system_fault
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER

Report = TypeVar("Report", bound=Any)


def print_report(make: Callable[[], Report], show: Callable[[Report], None], *, as_json: bool) -> int:
    """Prints the report, a dataclass, and returns the exit code: EXIT_USER if `make` fails for a reason that users
    can resolve."""
    try:
        report = make()
    except (ShardtuneError, OSError) as error:
        fault = system_fault(error) if isinstance(error, OSError) else str(error)
        if fault is None:
            raise
        if as_json:
            _print_json({"errors": fault.split("\n")})
        print(fault, file=sys.stderr)
        return EXIT_USER
    if as_json:
        _print_json(asdict(report))
    else:
        show(report)
    return EXIT_OK


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
