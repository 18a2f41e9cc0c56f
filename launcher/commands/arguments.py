"""The words of a command line -> the arguments of a subcommand, or one line that says what to write instead.

Fire is given only what it can take: its own messages are for the programmers of a command line, not for its users.
"""

import difflib
import inspect
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from shardtune.errors import ConfigError
from shardtune.recipe.counterparts.training_arguments import COUNTERPARTS

SHORT_FLAGS = {"-f": "--follow"}
OFF = "False"
"""The default of a flag without a value; given, it is "True". Fire would take the word after it for its value."""
EXAMPLES = {
    **dict.fromkeys(("text", "system"), '"…"'),
    **dict.fromkeys(("run_dir", "sweep_dir"), "DIR"),
    "out": "PATH",
    "fork": "NEW_DIR",
    "fractions": "0.1,0.3,1.0",
    **dict.fromkeys(("file", "data", "prompts"), "rows.jsonl"),
    "alphas": "0.3,0.5,0.7",
    "predictions": "out.jsonl",
    "points": "FILE",
    "grid": "key=A,B",
    "model": "last",
    "task": "classification",
    "dtype": "bf16",
    "depends": "afterok:JOB",
    "gpu": "h100-sxm-80g",
    "hardware": "FILE",
    "params": "7B",
    "gpus": "a100-80g,h100",
    "page": "plan.html",
    "format": "markdown",
    "to": "tensorboard",
    "project": "NAME",
    "name": "NAME",
    "uri": "http://HOST:5000",
}
"""What stands for the value of a flag in a message."""

_RUN = "shardtune run RECIPE"
_PREDICT = "shardtune predict RUN_DIR --file=rows.jsonl"
_STATUS = "shardtune status"
OTHER_NAMES = {
    **dict.fromkeys(("train", "finetune", "fine-tune", "sft", "start", "launch"), _RUN),
    **dict.fromkeys(
        ("resume", "continue", "restart"), "shardtune run RUN_DIR, or on Slurm shardtune submit RUN_DIR; both resume"
    ),
    **dict.fromkeys(
        ("evaluate", "test"),
        f"{_RUN}, which evaluates on data.dev and data.test (RUN_DIR/results.json); for other rows shardtune eval "
        "RUN_DIR --data=PATH",
    ),
    **dict.fromkeys(
        ("init", "new", "create", "config"),
        "a recipe of your own, which is one YAML file (docs/recipe.md lists the keys, recipes/ has one for each "
        "task), then shardtune check RECIPE",
    ),
    **dict.fromkeys(("merge", "merge-lora", "merge_lora"), "shardtune export RUN_DIR --merge-lora"),
    "fork": "shardtune run RUN_DIR --fork=NEW_DIR",
    **dict.fromkeys(("infer", "inference", "generate"), _PREDICT),
    **dict.fromkeys(("serve", "api"), "shardtune chat RUN_DIR, or a server of your choice on RUN_DIR/export/best"),
    **dict.fromkeys(("ls", "list", "ps"), _STATUS),
    **dict.fromkeys(("log", "tail"), "shardtune logs RUN_DIR -f"),
    **dict.fromkeys(("cancel", "kill", "abort"), "shardtune stop RUN_DIR"),
    **dict.fromkeys(("validate", "lint", "preview"), "shardtune check RECIPE"),
    **dict.fromkeys(("preprocess", "tokenize"), "shardtune prepare RECIPE"),
    **dict.fromkeys(("tune", "hpo", "search"), "shardtune sweep RECIPE --grid optim.lr=1e-5,2e-5"),
}
"""Commands of other programs -> what to use here."""


def version_line() -> str:
    """The version of shardtune and where it is installed."""
    try:
        number = version("shardtune")
    except PackageNotFoundError:  # a checkout on the path of Python that is not installed
        number = "(not installed)"
    return f"shardtune {number}, {Path(__file__).resolve().parents[2]}"


def unknown_command(word: str, commands: Sequence[str]) -> str:
    """What to say to a first word that is not a command."""
    if word in OTHER_NAMES:
        return f"there is no command {word!r}; use {OTHER_NAMES[word]}"
    if word.startswith("-") and not Path(word).exists():
        return f"the first word is a command, got {word!r}; choose from {', '.join(commands)}"
    if Path(word).exists():
        path = f"./{word}" if word.startswith("-") else word
        return f"there is no command {word!r}, but a path of that name; use {shlex.join(['shardtune', 'run', path])}"
    return f"unknown command {word!r}{_near_or_all(word, commands)}"


def bind(name: str, command: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """The words after the command's name as Fire takes them: first those without a flag, then `--flag=value`.

    Raises ConfigError for a flag that is unknown, given twice or without its value, and for a word too few or too many.
    """
    parameters = inspect.signature(command).parameters
    flags = {f"--{key.replace('_', '-')}": key for key, value in parameters.items() if _is_flag(value)}
    positional = [key for key, value in parameters.items() if is_word(value)]
    has_overrides = any(value.kind is inspect.Parameter.VAR_POSITIONAL for value in parameters.values())
    switches = [key for key, parameter in parameters.items() if parameter.default == OFF]
    plain, given = _taken_apart(name, words, flags, switches)
    needed = [key for key in positional if parameters[key].default is inspect.Parameter.empty]
    if len(plain) < len(needed):
        whole, wanted = (" ".join(names).upper() for names in (needed, needed[len(plain) :]))
        raise ConfigError(f"shardtune: {name}: {wanted} is missing; write shardtune {name} {whole} (--help has more)")
    limit = len(positional)
    if len(plain) > limit and not has_overrides:
        listed = " ".join(positional).upper()
        takes = {0: "takes no words", 1: f"takes one word, {listed}"}.get(limit, f"takes {limit} words, {listed}")
        raise ConfigError(f"shardtune: {name}: {takes}; got also {' '.join(map(repr, plain[limit:]))}{_aside(flags)}")
    return [*plain, *(f"--{key}={value}" for key, value in given.items())]


def is_word(parameter: inspect.Parameter) -> bool:
    """Whether users give the parameter as a word, and not as a flag."""
    if parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
        return False
    return parameter.default is inspect.Parameter.empty or parameter.name in ("recipe", "run_dir", "root")


def _is_flag(parameter: inspect.Parameter) -> bool:
    return parameter.default is not inspect.Parameter.empty


def _taken_apart(
    name: str, words: Sequence[str], flags: Mapping[str, str], switches: Collection[str]
) -> tuple[list[str], dict[str, str]]:
    """The words without a flag, and the values of the flags by parameter; those in `switches` take none."""
    plain: list[str] = []
    given: dict[str, str] = {}
    rest = iter(SHORT_FLAGS.get(word, word) for word in words)
    for word in rest:
        if not word.startswith("-"):
            plain.append(word)
            continue
        flag, equals, value = word.partition("=")
        key = flags.get(flag.replace("_", "-"))
        if key is None:
            raise ConfigError(f"shardtune: {name}: {_unknown_flag(flag, word, flags)}")
        if key in given:
            more = "; put several texts into a --file" if key == "text" else ""
            raise ConfigError(f"shardtune: {flag} is given twice{more}")
        if not equals and key in switches:
            value = "True"
        elif not equals:
            value = next(rest, "-")
            if value.startswith("-"):
                raise ConfigError(f"shardtune: {flag} takes a value, as in {flag}={EXAMPLES.get(key, 'N')}")
        given[key] = value
    return plain, given


def _unknown_flag(flag: str, word: str, flags: Iterable[str]) -> str:
    key, _, value = word.lstrip("-").partition("=")
    ours, note = COUNTERPARTS.get(key.replace("-", "_"), (None, ""))
    if word.endswith((".yaml", ".yml")) or Path(word).exists():
        return f"{word!r} begins with a dash, as flags do; for the file of that name write ./{word}"
    if "." in key:
        return f"unknown flag {flag}; keys of the recipe have no dashes: {key}={value or '…'}"
    if ours is not None or note:
        meant = f"the key of the recipe is {ours}, as in {ours}=…" if ours else note
        return f"unknown flag {flag}; {meant}"
    return f"unknown flag {flag}{_near_or_all(flag, list(flags))}"


def _near_or_all(word: str, legal: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, legal, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; choose from {', '.join(legal)}" if legal else "; it takes no flags"


def _aside(flags: Mapping[str, str]) -> str:
    return f"; flags: {', '.join(flags)}" if flags else ""
