"""The subcommands that measure how good trained models are."""

from shardtune.launcher.commands.command import Command, refuse_values

HELP = """\
How good a model is:

  shardtune compare RUN_A RUN_B             which differences on the same test rows are more than chance (--json)
"""


def compare(run_a: str, run_b: str, json: str = "False") -> Command:
    """Compares two finished runs on the test rows that both have: paired bootstrap, McNemar's test (docs/quality.md).

    Args:
        run_a: a run directory.
        run_b: another one, whose recipe names the same test data.
        json: print a JSON object.
    """
    refuse_values(json=json)

    def perform() -> int:
        from shardtune.launcher.start import execute

        flags = ["--json"] if json == "True" else []
        return execute.run_module("shardtune.trainer.commands.quality.compare", [run_a, run_b, *flags])

    return Command(perform)
