"""More rounds than a test has time for: `python -m tests.faults --rounds 500 --seed 7`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.harness import make_bench, rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-a-row", type=int, default=5, help="faults of one run, before it is left in peace")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bench = make_bench(folder / "data")
        said = rounds(bench, folder, number=arguments.rounds, seed=arguments.seed, in_a_row=arguments.in_a_row)
        for number, text in enumerate(said, start=1):
            print(f"{number:4} {text}", flush=True)
    print(f"{arguments.rounds} rounds: every run has ended with the unbroken one's weights, bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
