"""More rounds than a test has time for: `python -m tests.fuzz --rounds 20000 --seed 7`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.inputs import make_place, rounds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each further one has the next number")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for text in rounds(make_place(Path(name)), range(given.seed, given.seed + given.rounds)):
            print(text, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
