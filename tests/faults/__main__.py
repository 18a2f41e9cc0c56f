"""More rounds than a test has time for: `python -m tests.faults --rounds 500 --seed 7`.

Each round has a seed, which is shown; the rounds of N seeds are those from --seed on. `--rounds 1 --seed S` does that
of one seed again, on a run of its own.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.faults import harness, launches, small_disk

FORKED, LAUNCHED, DISK = "forked ranks", "a real run", "a small disk"
KINDS = (FORKED, LAUNCHED, FORKED, FORKED, DISK, FORKED, FORKED, FORKED, FORKED, FORKED)
"""What the rounds are done on, in turns; of forked ranks there are more moments to strike, and they start faster."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; each further one has the next number")
    parser.add_argument("--in-a-row", type=int, default=5, help="faults of a run of forked ranks before it is let end")
    arguments = parser.parse_args()
    seeds = range(arguments.seed, arguments.seed + arguments.rounds)
    with tempfile.TemporaryDirectory() as name:
        for kind in dict.fromkeys(KINDS):
            its_seeds = [seed for seed in seeds if KINDS[seed % len(KINDS)] == kind]
            if its_seeds:
                print(f"{kind}:", flush=True)
                folder = Path(name) / kind.replace(" ", "-")
                for text in rounds(kind, folder, its_seeds, arguments.in_a_row):
                    print(text, flush=True)
    print(f"{arguments.rounds} rounds: every run has ended with the unbroken one's weights, bit for bit")
    return 0


def rounds(kind: str, folder: Path, seeds: Sequence[int], in_a_row: int) -> Iterator[str]:
    """Says what happened in each. AssertionError, which names the seeds, if a run does not end as it should."""
    folder.mkdir()
    if kind == FORKED:
        return harness.rounds(harness.make_bench(folder / "data"), folder, seeds, in_a_row=in_a_row)
    if kind == LAUNCHED:
        return launches.rounds(launches.make_place(folder), seeds)
    return small_disk.rounds(folder, seeds)


if __name__ == "__main__":
    sys.exit(main())
