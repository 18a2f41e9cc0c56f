"""Checks a machine with GPUs: whether it computes the right numbers, how much memory that takes, and how fast it is.

Needs no network and no weights: models and rows are made from seeds. Each part is printed as it ends; a part that fails
does not end the check. The exit code is 1 if a bound does not hold or a part failed.
"""

import argparse
import json
import math
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu import faults, losses, memory, speed, waits
from benchmarks.gpu.bench import Bench, Outcome, Part, render, run_parts
from benchmarks.gpu.workers import JobFailed, OutOfTime, Workers

PARTS = (
    Part("losses", "the same losses everywhere", 0.22, losses.run),
    Part("resumes", "a run that is moved", 0.07, faults.run_resumes),
    Part("shortage", "out of memory", 0.05, faults.run_shortage),
    Part("saves", "checkpoints in the background", 0.04, faults.run_saves),
    Part("waits", "host waits and gaps between kernels", 0.09, waits.run),
    Part("memory", "memory by strategy", 0.1, memory.run),
    Part("speed", "speed", 0.43, speed.run),
)


FACTS_S = 120.0
"""How long a process may take to start and name its device."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    if given.folder is not None:
        given.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="shardtune-gpu-", dir=given.folder))
    workers = Workers(given.device, folder)
    bench = Bench(given.device, given.tiny, folder, workers, ends_at=time.monotonic() + 60 * given.minutes)
    outcomes: dict[str, Outcome] = {}
    try:
        try:
            bench.facts = workers.next_one().do("facts", within_s=FACTS_S)
        except (JobFailed, OutOfTime) as error:
            print(f"benchmarks.gpu: a process that trains cannot start: {error}", file=sys.stderr)
            return 2
        if given.device == "cuda" and not bench.facts["num_gpus"]:
            print("benchmarks.gpu: torch sees no GPU; check nvidia-smi, or run with --device cpu", file=sys.stderr)
            return 2
        print(describe(bench.facts), flush=True)
        for part, outcome in run_parts(bench, [part for part in PARTS if part.name in (given.part or [part.name])]):
            outcomes[part.name] = outcome
            print(render(part, outcome), flush=True)
            if given.json:
                write(given.json, summary(bench, outcomes))
    finally:
        workers.close()
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    report = summary(bench, outcomes)
    print(json.dumps({"passed": report["passed"], "parts": {name: each.status for name, each in outcomes.items()}}))
    return 0 if report["passed"] else 1


def describe(facts: Mapping[str, Any]) -> str:
    """The device and the versions, on a line each."""
    gpu = f", {facts['memory_bytes'] / 1e9:.0f} GB" if facts["device"] == "cuda" else ""
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    optional = ", ".join(facts["optional"]) or "none of the optional packages"
    return (
        f"{facts['name']}{gpu}; {facts['num_cores']} cores\n"
        f"Python {facts['python']}, CUDA {facts['cuda']}, {packages}; {optional}\n"
    )


def summary(bench: Bench, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """What the JSON holds; it is written anew after each part, in case that the check is ended from outside."""
    return {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "is_tiny": bench.is_tiny,
        "machine": bench.facts,
        "passed": all(outcome.status in ("passed", "skipped") for outcome in outcomes.values()),
        "parts": {name: outcome.as_json() for name, outcome in outcomes.items()},
    }


def write(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the report as JSON, which has no number that is not finite."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(finite(report), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def finite(value: Any) -> Any:
    """The value with None for each number that is not finite."""
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: %(default)s")
    parser.add_argument("--tiny", action="store_true", help="the smallest models and the fewest trainings")
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all parts (default: %(default)g)")
    parser.add_argument("--part", choices=[part.name for part in PARTS], action="append", help="only this part")
    parser.add_argument("--json", type=Path, help="also writes all numbers to this file")
    parser.add_argument("--folder", type=Path, help="where to write models and runs (default: the temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the models and the runs")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the processes are ended too
    sys.exit(main())
