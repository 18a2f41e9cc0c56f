"""Checks the machines without a recipe: runs the checks that precede a training, and prints every measurement.

`python -m shardtune.trainer.commands.doctor FOLDER`, under torchrun; FOLDER is shared by all machines. Exit code 2 if
a machine is unfit for training.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import ShardtuneError
from shardtune.processes import run_piped
from shardtune.run_dir.exit_codes import EXIT_OK, EXIT_USER
from shardtune.trainer.distributed.ranks import connect, disconnect
from shardtune.trainer.preflight.link_speed import measure_links
from shardtune.trainer.preflight.numa import shared_notes
from shardtune.trainer.preflight.preflight import judge, render_facts
from shardtune.trainer.preflight.probe import probe
from shardtune.trainer.setup.rank_log import drop_deprecation_warnings


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks of this rank and returns its exit code. Rank 0 prints the results."""
    parser = OneLineParser("python -m shardtune.trainer.commands.doctor", description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder on a file system shared by all machines")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="what to check")
    arguments = parser.parse_args(argv)
    drop_deprecation_warnings()
    try:
        ranks = connect(arguments.device)
        facts = probe(arguments.folder, ranks, gpus=True)
        links = measure_links(ranks, [rank.host for rank in facts])
        notes = shared_notes(ranks)
        ranks.barrier()
        disconnect()
    except ShardtuneError as error:
        print(error, file=sys.stderr)
        return EXIT_USER
    verdict = judge(facts, links)
    if ranks.is_zero:
        print(render_facts(facts, links))
        for text in notes:
            print(text)
        for text in (*verdict.faults, *verdict.notices):
            print(f"! {text}")
        if not (verdict.faults or verdict.notices):
            num_machines = len({rank.host for rank in facts})
            print(f"no problem found on {counted(len(facts), 'rank')}, {counted(num_machines, 'machine')}")
    return EXIT_USER if verdict.faults else EXIT_OK


if __name__ == "__main__":
    run_piped(main)
