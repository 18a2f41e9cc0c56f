"""The `shardtune` command, also as `python -m shardtune.launcher`."""

from shardtune.safe_path import leave_out_working_directory


def main() -> None:
    """Runs the command line without importing anything from the working directory."""
    leave_out_working_directory()
    from shardtune.launcher import cli

    cli.main()


if __name__ == "__main__":
    main()
