"""A command that makes one report: for people, or with --json as one object, and so its errors."""

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, TypeVar

from shardtune.errors import ShardtuneError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER

Report = TypeVar("Report", bound=Any)


def print_report(make: Callable[[], Report], show: Callable[[Report], None], *, as_json: bool) -> int:
    """Prints the report, a dataclass, and returns the exit code; that of a user's mistake if making it raises one."""
    try:
        report = make()
    except ShardtuneError as error:
        if as_json:
            _print_json({"errors": str(error).splitlines()})
        print(error, file=sys.stderr)
        return EXIT_USER
    if as_json:
        _print_json(asdict(report))
    else:
        show(report)
    return EXIT_OK


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=1))
