"""The command line: which subcommands exist, and how one is carried out.

A subcommand only returns a Command, which is performed after Fire has taken every argument, because Fire calls a
function before it finds that a flag is unknown.
"""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from shardtune.errors import ConfigError, ShardtuneError, system_fault
from shardtune.home import expand_home
from shardtune.launcher.commands import arguments
from shardtune.launcher.commands import dashboard as dashboard_commands
from shardtune.launcher.commands import forgetting as forgetting_commands
from shardtune.launcher.commands import plan as plan_commands
from shardtune.launcher.commands import quality as quality_commands
from shardtune.launcher.commands import replay as replay_commands
from shardtune.launcher.commands import run as run_commands
from shardtune.launcher.commands import slurm as slurm_commands
from shardtune.launcher.commands import sweep as sweep_commands
from shardtune.launcher.commands.command import Command
from shardtune.processes import forget_output
from shardtune.redaction import redact

HELP = f"""\
shardtune: supervised fine-tuning of pretrained transformers on one or many GPUs

{run_commands.HELP.rstrip()}
{replay_commands.HELP}
{plan_commands.HELP}
{quality_commands.HELP}
{forgetting_commands.HELP}
Many runs:

{sweep_commands.HELP}{dashboard_commands.HELP}
On a Slurm cluster:

{slurm_commands.HELP}
  shardtune run --help                      help on a command; docs/recipe.md lists all keys
  shardtune --version                       the version, and where it is installed
"""


COMMANDS: dict[str, Callable[..., Command]] = {
    "run": run_commands.run,
    "plan": plan_commands.plan,
    "check": run_commands.check,
    "prepare": run_commands.prepare,
    "predict": run_commands.predict,
    "chat": run_commands.chat,
    "checkpoints": run_commands.checkpoints,
    "export": run_commands.export,
    "report": run_commands.report,
    "compare": quality_commands.compare,
    "replay": replay_commands.replay,
    "eval": quality_commands.evaluate,
    "suspects": quality_commands.suspects,
    "sample-base": forgetting_commands.sample_base,
    "blend": forgetting_commands.blend,
    "sweep": sweep_commands.sweep,
    "dashboard": dashboard_commands.dashboard,
    "submit": slurm_commands.submit,
    "status": slurm_commands.status,
    "watch": slurm_commands.watch,
    "logs": slurm_commands.logs,
    "stop": slurm_commands.stop,
    "requeue": slurm_commands.requeue,
    "doctor": slurm_commands.doctor,
    "schema": run_commands.schema,
    "sync": run_commands.sync,
}


PATH_FLAGS = (
    "--run-dir",
    "--fork",
    "--sweep-dir",
    "--points",
    "--file",
    "--out",
    "--hardware",
    "--page",
    "--data",
    "--predictions",
    "--prompts",
)


def main() -> None:
    """The `shardtune` command."""
    try:
        code = _carry_out(sys.argv[1:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the output has closed it (`| head`)
        forget_output()
        code = 0
    sys.exit(code)


def _carry_out(words: list[str]) -> int:
    """Carries out a command line; returns the exit code."""
    name, rest = (words[0], words[1:]) if words else ("help", [])
    if name in ("--help", "-h", "help"):
        print(_help(rest[0]) if rest and rest[0] in COMMANDS else HELP)
        return 0
    if name in ("--version", "-V", "version"):
        print(arguments.version_line())
        return 0
    if name not in COMMANDS:
        print(f"shardtune: {arguments.unknown_command(name, list(COMMANDS))}", file=sys.stderr)
        return 2
    if "--help" in rest or "-h" in rest:
        print(_help(name))
        return 0
    try:
        at_home = [_at_home(word, is_first=not at) for at, word in enumerate(rest)]
        bound = arguments.bind(name, COMMANDS[name], sweep_commands.joined(at_home))
    except ConfigError as error:
        print(redact(str(error)), file=sys.stderr)
        return 2
    return _perform([name, *bound])


def _perform(words: list[str]) -> int:
    """Has Fire call the subcommand, and performs what it returns; returns the exit code."""
    import fire
    from fire import decorators

    commands = {name: decorators.SetParseFn(str)(command) for name, command in COMMANDS.items()}
    try:
        command = fire.Fire(commands, command=words, name="shardtune", serialize=lambda _: None)
        assert isinstance(command, Command), "every subcommand returns one"
        return command.perform()
    except ShardtuneError as error:
        print(redact(str(error)), file=sys.stderr)
    except OSError as error:
        if isinstance(error, BrokenPipeError) or (fault := system_fault(error)) is None:
            raise
        print(f"shardtune: {fault}", file=sys.stderr)
    return 2


def _at_home(word: str, *, is_first: bool) -> str:
    """The word with the `~` of a path expanded, which shells leave alone in --run-dir=~/runs. Raises ConfigError."""
    flag, _, value = word.partition("=")
    if is_first and word.startswith("~") and not Path(word).exists():
        return str(expand_home(word))
    is_path = flag.replace("_", "-") in PATH_FLAGS and value.startswith("~")
    return f"{flag}={expand_home(value)}" if is_path else word


def _help(name: str) -> str:
    """The docstring of a subcommand, with its arguments as users type them."""
    text = f"shardtune {name}: {inspect.getdoc(COMMANDS[name])}"
    for parameter in inspect.signature(COMMANDS[name]).parameters.values():
        typed = parameter.name.upper()
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            typed = "key=value" if parameter.name == "overrides" else f"{typed.removesuffix('S')} …"
        elif not arguments.is_word(parameter):
            typed = f"--{parameter.name.replace('_', '-')}"
        text = text.replace(f"\n    {parameter.name}: ", f"\n    {typed}: ")
    return text
