"""Whether this user has written what a run directory would have executed, or somebody else who may write there.

Some keys of a recipe name programs, or options that lead to them. In a recipe that the user names they are the user's
own words. In the config.yaml of a run directory they may be anybody's who may write to the folder, so they count as the
user's only if the file is the user's and no one else may write to it, or if the user has had the same lines executed
before (which is how one's own runs are known in a folder that a group may write to). All others are shown and refused.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import CheckpointError, ConfigError, LaunchError
from shardtune.recipe.explain import dotted
from shardtune.recipe.load import draft_recipe, parse_override, parse_recipe
from shardtune.recipe.paths import with_absolute_paths
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.accepted import accept, is_own, unaccepted
from shardtune.run_dir.files import CONFIG
from shardtune.run_dir.run import Run
from shardtune.users import user_name

EXECUTED = ("preamble", "python", "container", "container_mounts", "sbatch_options")
"""The keys of job that name programs, or options that lead to them, such as --export=LD_PRELOAD=…"""


def executed_lines(recipe: Recipe) -> dict[str, Any]:
    """What a recipe has executed: dotted key -> value, of the keys of EXECUTED that are set."""
    job, fields = recipe.job, type(recipe.job).model_fields
    return {f"job.{name}": getattr(job, name) for name in EXECUTED if getattr(job, name) != fields[name].default}


def settle_trust(run: Run, overrides: Sequence[str], *, is_trusted: bool = False) -> None:
    """Makes sure that what the run would execute is this user's word, and remembers it as such.

    `overrides` are those that the run was found with; they are the user's word. With `is_trusted`, the user has
    accepted what the run directory says. Raises LaunchError with the lines that are somebody else's, or CheckpointError
    if the run directory is just being changed.
    """
    lines = executed_lines(run.recipe)
    if run.recipe_path.is_dir() and not is_trusted:
        given = {dotted(parse_override(override)[0]) for override in overrides}
        foreign = {key: value for key, value in unaccepted(lines).items() if not {key, "job"} & given}
        if foreign:
            _refuse_foreign(run, overrides, foreign)
    accept(lines)


def _refuse_foreign(run: Run, overrides: Sequence[str], foreign: dict[str, Any]) -> None:
    """Raises LaunchError, unless the file of the run's recipe is this user's."""
    config = run.recipe_path / CONFIG
    text, status = _read(config)
    # Somebody may have exchanged the file since the run was found: owner and content have to be those of one file.
    # The strategy that engine.deepspeed: auto stands for is in the run alone, and executes nothing.
    found = with_absolute_paths(parse_recipe(text, overrides, name=str(config)), Path.cwd())
    if found.model_copy(update={"engine": run.recipe.engine}) != run.recipe:
        raise CheckpointError(f"{config} changed while it was read; run again")
    if is_own(status):
        return
    draft = draft_recipe(text, overrides, name=str(config))
    listed = "\n  ".join(
        f"{draft.place(tuple(key.split('.'))).label}: {key}: {_shown(value)}" for key, value in foreign.items()
    )
    raise LaunchError(
        f"{config}: {_whose(status)}, and these lines of it run programs; they are not known to be yours:\n"
        f"  {listed}\nTo accept them, add --trust; to replace one, set its key, such as {next(iter(foreign))}=null"
    )


def _read(config: Path) -> tuple[str, os.stat_result]:
    """The text of a file, and the status of the very same file; of a link, the status is the link's."""
    try:
        descriptor = os.open(config, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise ConfigError(f"{config} cannot be read: {error.strerror}") from None
        return config.read_text(encoding="utf-8"), config.lstat()
    with os.fdopen(descriptor, encoding="utf-8") as file:
        return file.read(), os.fstat(file.fileno())


def _whose(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return f"is a link that {user_name(status.st_uid)} has made"
    if status.st_uid != os.geteuid():
        return f"belongs to {user_name(status.st_uid)}"
    return f"others may write to it (its mode is {stat.S_IMODE(status.st_mode):03o})"


def _shown(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
