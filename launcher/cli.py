"""The command line: which subcommands exist, and how one is carried out.

A subcommand only returns a Command, which is performed after Fire has taken every argument, because Fire calls a
function before it finds that a flag is unknown.
"""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.launcher.commands import run as run_commands
from shardtune.launcher.commands import slurm as slurm_commands
from shardtune.launcher.commands import sweep as sweep_commands
from shardtune.launcher.commands.command import Command

HELP = f"""\
shardtune: supervised fine-tuning of pretrained transformers on one or many GPUs

{run_commands.HELP}
Many runs:

{sweep_commands.HELP}
On a Slurm cluster:

{slurm_commands.HELP}
  shardtune run --help                      help on a command; docs/recipe.md lists all keys
"""


COMMANDS: dict[str, Callable[..., Command]] = {
    "run": run_commands.run,
    "plan": run_commands.plan,
    "check": run_commands.check,
    "prepare": run_commands.prepare,
    "predict": run_commands.predict,
    "chat": run_commands.chat,
    "checkpoints": run_commands.checkpoints,
    "export": run_commands.export,
    "report": run_commands.report,
    "sweep": sweep_commands.sweep,
    "submit": slurm_commands.submit,
    "status": slurm_commands.status,
    "watch": slurm_commands.watch,
    "logs": slurm_commands.logs,
    "stop": slurm_commands.stop,
    "requeue": slurm_commands.requeue,
    "doctor": slurm_commands.doctor,
    "schema": run_commands.schema,
}


BARE_FLAGS = {
    "--dry-run": "--dry_run=True",
    "--dry_run": "--dry_run=True",
    "--json": "--json=True",
    "--quick": "--quick=True",
    "--wait": "--wait=True",
    "--now": "--now=True",
    "--trust": "--trust=True",
    "--local": "--local=True",
    "--prepare": "--prepare=True",
    "--follow": "--follow=True",
    "-f": "--follow=True",
}


PATH_FLAGS = ("--run-dir", "--fork", "--sweep-dir", "--points", "--file", "--out")


def main() -> None:
    """The `shardtune` command."""
    # Fire would take the argument after a bare flag for its value, and so swallow an override.
    words = sweep_commands.joined([BARE_FLAGS.get(word, word) for word in sys.argv[1:]])
    try:
        code = _carry_out(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # the reader of the output has closed it (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _carry_out(words: list[str]) -> int:
    """Carries out a command line; returns the exit code."""
    if not words or words[0] in ("--help", "-h", "help"):
        print(HELP)
        return 0
    if words[0] not in COMMANDS:
        return _refuse(f"unknown command {words[0]!r}", words[0], list(COMMANDS))
    if "--help" in words or "-h" in words:
        print(_help(words[0]))
        return 0
    try:
        words = [words[0], *(_at_home(word, is_first=not at) for at, word in enumerate(words[1:]))]
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    parameters = inspect.signature(COMMANDS[words[0]]).parameters.values()
    known = [f"--{p.name.replace('_', '-')}" for p in parameters if p.default is not inspect.Parameter.empty]
    flags = [word.split("=")[0].replace("_", "-") for word in words[1:] if word.startswith("--")]
    for flag in flags:
        if flag not in known:
            return _refuse(f"{words[0]}: unknown flag {flag}", flag, known)
        if flags.count(flag) > 1:
            more = "; put several texts into a --file" if flag == "--text" else ""
            print(f"shardtune: {flag} is given twice{more}", file=sys.stderr)
            return 2
    import fire
    from fire import decorators

    commands = {name: decorators.SetParseFn(str)(command) for name, command in COMMANDS.items()}
    command = fire.Fire(commands, command=words, name="shardtune", serialize=lambda _: None)
    if not isinstance(command, Command):
        return 0
    from shardtune.errors import ShardtuneError

    try:
        return command.perform()
    except ShardtuneError as error:
        print(error, file=sys.stderr)
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
            typed = "key=value"
        elif parameter.default is not inspect.Parameter.empty:
            typed = f"--{parameter.name.replace('_', '-')}"
        text = text.replace(f"\n    {parameter.name}: ", f"\n    {typed}: ")
    return text


def _refuse(what: str, word: str, legal: list[str]) -> int:
    import difflib

    near = difflib.get_close_matches(word, legal, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; choose from {', '.join(legal)}"
    print(f"shardtune: {what}{hint}", file=sys.stderr)
    return 2
