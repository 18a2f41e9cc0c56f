"""Measures the ranks of this machine for the planner, all of them at once.

`torchrun … -m shardtune.trainer.commands.planning.calibrate --machine=FINGERPRINT --began=TIME --out=FILE`, started by
`shardtune plan --calibrate`, which keeps what is written to the file.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from shardtune.argument_parser import OneLineParser
from shardtune.processes import run_piped
from shardtune.run_dir.exit_codes import EXIT_OK
from shardtune.run_dir.files import write_atomically
from shardtune.trainer.calibration.measure import measure
from shardtune.trainer.calibration.timing import Clock, Effort
from shardtune.trainer.distributed.ranks import connect, disconnect
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Collective: measures, writes the result on rank 0, and returns the exit code."""
    parser = OneLineParser("shardtune plan --calibrate", description=__doc__)
    parser.add_argument("--machine", required=True, help="the fingerprint of this machine")
    parser.add_argument("--began", type=float, required=True, help="when the ranks were started")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    parser.add_argument("--device", choices=["cpu", "cuda"], required=True, help="what the ranks compute on")
    arguments = parser.parse_args(argv)
    drop_deprecation_warnings()
    ranks = connect(arguments.device)
    since = time.monotonic()

    def say(text: str) -> None:
        if ranks.is_zero:
            print(f"[{time.monotonic() - since:3.0f} s] {ranks.world_size} x {text}", file=sys.stderr, flush=True)

    found = measure(Clock(ranks, Effort()), arguments.machine, Path.cwd(), arguments.began, say)
    if ranks.is_zero:
        write_atomically(arguments.out, json.dumps(found.as_json()))
    ranks.barrier()
    disconnect()
    return EXIT_OK


if __name__ == "__main__":
    run_piped(main)
