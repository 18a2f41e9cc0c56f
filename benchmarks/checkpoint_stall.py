"""How long training waits for its checkpoints, asynchronous and synchronous. Ratios of one run, on this machine.

Two short trainings of the demo's recipe that differ in checkpoint.asynchronous only, each with a checkpoint every few
steps. The stall is the time that steps wait for a checkpoint, from the copy to the last check whether it is finished.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fetched import fetched
from demo import sentiment

RECIPE = Path("recipes/sentiment.yaml")


def measure(
    recipe: Path, overrides: Sequence[str], *, asynchronous: bool, num_steps: int, every: int
) -> dict[str, Any]:
    """Medians over the checkpoints of one training, without the first, which allocates its memory."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        run_dir = Path(folder) / "run"
        settings = [
            f"train.max_steps={num_steps}",
            "data.dev=null",
            "data.test=null",
            "report.wandb=disabled",
            f"checkpoint.every_steps={every}",
            f"checkpoint.asynchronous={str(asynchronous).lower()}",
        ]
        arguments = ["-m", "shardtune.launcher", "run", str(recipe), *settings, *overrides, f"--run-dir={run_dir}"]
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        events = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # Training always waits for the last one.
    saves = [event for event in events if event["event"] == "checkpoint" and event["step"] < num_steps][1:]
    steps = [event["step_time_s"] for event in events if event["event"] == "step"][1:]
    return {
        "stall_s": statistics.median(save["stall_s"] for save in saves),
        "written_s": statistics.median(save["written_s"] for save in saves),
        "num_bytes": saves[0]["num_bytes"],
        "step_s": statistics.median(steps),
        "num_checkpoints": len(saves),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.checkpoint_stall", description=__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the recipe")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=42, help="steps of each training (default: %(default)s)")
    parser.add_argument("--every", type=int, default=8, help="steps between checkpoints (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also writes the numbers to this file")
    given = parser.parse_intermixed_args(arguments)
    if given.recipe == RECIPE:
        fetched(sentiment.prepare)
    numbers = {
        name: measure(
            given.recipe, given.overrides, asynchronous=asynchronous, num_steps=given.steps, every=given.every
        )
        for name, asynchronous in (("synchronous", False), ("asynchronous", True))
    }
    ratio = numbers["asynchronous"]["stall_s"] / numbers["synchronous"]["stall_s"]
    print(f"{'':14}{'stall':>10}{'on disk after':>16}{'step':>10}{'checkpoints':>14}")
    for name, medians in numbers.items():
        print(
            f"{name:14}{medians['stall_s']:>8.3f} s{medians['written_s']:>14.3f} s{medians['step_s']:>8.3f} s"
            f"{medians['num_checkpoints']:>14}"
        )
    print(f"{numbers['synchronous']['num_bytes'] / 1e6:,.0f} MB each; asynchronous, a step waits {ratio:.1%} as long")
    if given.json:
        given.json.write_text(json.dumps({**numbers, "stall_ratio": ratio}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
