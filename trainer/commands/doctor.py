"""Checks the machines alone, without a recipe: what training checks before it begins, and every number behind it.

`python -m shardtune.trainer.commands.doctor FOLDER`, under torchrun; FOLDER is one that all machines see. Exit code 2
if they are not fit.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import ShardtuneError
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.trainer.distributed.ranks import connect, disconnect
from shardtune.trainer.preflight.link_speed import measure_links
from shardtune.trainer.preflight.preflight import judge, render_facts
from shardtune.trainer.preflight.probe import probe


def main(argv: Sequence[str] | None = None) -> int:
    """Runs this rank; returns its exit code. Rank zero says what was found."""
    parser = argparse.ArgumentParser("python -m shardtune.trainer.commands.doctor", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that all machines share")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    arguments = parser.parse_args(argv)
    try:
        ranks = connect(arguments.device)
        facts = probe(arguments.folder, ranks, gpus=True)
        links = measure_links(ranks, [its.host for its in facts])
        ranks.barrier()
        disconnect()
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    verdict = judge(facts, links)
    if ranks.is_zero:
        print(render_facts(facts, links))
        for text in (*verdict.faults, *verdict.notices):
            print(f"! {text}")
        if not (verdict.faults or verdict.notices):
            print(f"nothing is wrong with {len(facts)} ranks on {len({its.host for its in facts})} machines")
    return EXIT_USER if verdict.faults else EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
