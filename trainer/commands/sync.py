"""`shardtune sync`: uploads runs to Weights & Biases after they have trained, or while they do.

`python -m shardtune.trainer.commands.sync RUN_DIR… [--workspace]`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from shardtune.argument_parser import OneLineParser
from shardtune.counted import counted
from shardtune.errors import ShardtuneError
from shardtune.processes import run_piped
from shardtune.redaction import redact
from shardtune.run_dir.files import absolute


def main(argv: Sequence[str] | None = None) -> int:
    """Uploads the runs in turn; returns the exit code: 2 if one of them could not be uploaded."""
    parser = OneLineParser("python -m shardtune.trainer.commands.sync", description=__doc__)
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--workspace", action="store_true", help="also save a workspace with the panels of shardtune")
    arguments = parser.parse_args(argv)
    failed = [run_dir for run_dir in arguments.run_dirs if not _sync(absolute(run_dir), workspace=arguments.workspace)]
    return 2 if failed else 0


def _sync(run_dir: Path, *, workspace: bool) -> bool:
    """Whether the run was uploaded; says what was done, or why not."""
    from shardtune.trainer.reporting.wandb_run.upload import upload
    from shardtune.trainer.reporting.wandb_run.workspace import save_workspace

    print(f"uploading {run_dir}", file=sys.stderr, flush=True)
    try:
        uploaded = upload(run_dir)
        print(f"{run_dir}: {counted(uploaded.num_rows, 'row')} uploaded to W&B: {uploaded.where}")
        if workspace:
            print(f"workspace: {save_workspace(run_dir)}")
    except ShardtuneError as error:
        print(redact(str(error)), file=sys.stderr)
        return False
    except Exception as error:  # of wandb, which has many
        print(redact(f"{run_dir}: W&B failed: {type(error).__name__}: {error}"), file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    run_piped(main)
