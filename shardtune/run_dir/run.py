"""The name of a run directory, and its first files.

A recipe has one default directory, named after the recipe and a hash of what it trains: the same command again resumes,
and a changed recipe starts a run of its own.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shardtune.errors import CheckpointError, ConfigError
from shardtune.home import expand_home
from shardtune.recipe.load import learned_differences, learning_hash, load_recipe, parse_recipe, render_recipe
from shardtune.recipe.paths import without_places
from shardtune.recipe.schema import Recipe
from shardtune.redaction import redact
from shardtune.run_dir.files import (
    CHECKPOINTS,
    CONFIG,
    DATA,
    EXPORT,
    FORKED_FROM,
    LEASE,
    RECIPE,
    absolute,
    write_atomically,
)
from shardtune.run_dir.links import refuse_links


@dataclass(frozen=True)
class Run:
    """A recipe and its run directory."""

    recipe: Recipe
    run_dir: Path
    recipe_path: Path
    """The recipe file, or the run directory to resume."""
    forked_from: Path | None = None
    """The run directory whose newest checkpoint this run starts from."""
    is_as_kept: bool = False
    """Whether the recipe is that of the run directory as it is, so that the file is left alone: written anew, it would
    be this user's, whoever had written it (shardtune/run_dir/trust.py)."""


def find_run(
    path: Path,
    overrides: Sequence[str],
    run_dir: Path | None,
    fork: Path | None = None,
    *,
    checks_paths: bool = True,
) -> Run:
    """Return the run that a command line means: of a recipe, of a run directory to resume, or a fork of either.

    Without `checks_paths` nobody looks whether the data are there: of hundreds of ranks one does, for all.

    Raises ConfigError if the recipe is invalid, or the home directory of `~` unknown, CheckpointError if the run
    directory belongs to another recipe.
    """
    recipe_path = path
    if path.is_dir():
        if run_dir is not None:
            raise ConfigError(f"{path} is already a run directory; --run-dir applies only to a recipe")
        if not (path / CONFIG).is_file():
            raise ConfigError(f"{path}: not a run directory (no {CONFIG}); give a recipe such as recipes/x.yaml")
        path, run_dir = path / CONFIG, path
    recipe = load_recipe(path, overrides, checks_paths=checks_paths)
    if run_dir is None:
        run_dir = Path("runs") / f"{path.stem}-{learning_hash(recipe)}"
    run_dir = absolute(expand_home(run_dir))
    if fork is None:
        refuse_another_recipe(recipe, run_dir)
        return Run(recipe, run_dir, recipe_path, is_as_kept=recipe_path.is_dir() and not overrides)
    fork = absolute(expand_home(fork))
    _refuse_to_fork(run_dir, fork)
    refuse_another_recipe(recipe, fork)
    return Run(recipe, fork, recipe_path, forked_from=run_dir)


def refuse_another_recipe(recipe: Recipe, run_dir: Path) -> None:
    """Raises CheckpointError if the directory's recipe trains something else, so that its checkpoints would not fit."""
    if not (run_dir / CONFIG).is_file():
        return
    before = read_config(run_dir)
    # Where the data and the model lie may have changed; whether they are the same, refuse_other_data tells.
    changes = learned_differences(without_places(before), without_places(recipe))
    if not changes:
        return
    raise CheckpointError(
        f"{run_dir} belongs to another recipe:\n  " + "\n  ".join(changes) + "\n"
        "Use another --run-dir, or continue from its checkpoint with --fork=NEW_DIR"
    )


def read_config(run_dir: Path) -> Recipe:
    """Return the resolved recipe of a run. Raises CheckpointError if the directory has none."""
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(f"{run_dir}: not a run directory (no {CONFIG})")
    return parse_recipe((run_dir / CONFIG).read_text(encoding="utf-8"), name=str(run_dir / CONFIG))


def _refuse_to_fork(run_dir: Path, fork: Path) -> None:
    if fork == run_dir:
        raise CheckpointError(f"--fork: {fork} is the run itself; give a new directory")
    if not (run_dir / CONFIG).is_file():
        raise CheckpointError(
            f"--fork: no run in {run_dir} to start from; give its directory instead of the recipe, or with --run-dir"
        )
    # Another rank of the same start may hold the lease already, and have a log.
    names = {path.name for path in fork.iterdir() if not path.name.startswith(".")} if fork.is_dir() else set()
    if names - {LEASE, "logs"}:
        origin = json.loads((fork / FORKED_FROM).read_text(encoding="utf-8")) if (fork / FORKED_FROM).is_file() else {}
        if origin.get("run_dir") != str(run_dir):
            raise CheckpointError(f"--fork: {fork} is not empty and not a fork of {run_dir}; give a new directory")


@dataclass(frozen=True)
class DataIdentity:
    """What identifies the prepared data of a run."""

    fingerprint: str
    parts: Mapping[str, str]
    """Digests of what the fingerprint is made of, by the key of the recipe or another name."""
    earlier: str | None = None
    """The fingerprint that the earlier version of shardtune gave to the same data."""


def refuse_other_data(run_dir: Path, identity: DataIdentity, *, keep: bool = True) -> None:
    """Raises CheckpointError if the run began on other data: a step number would then mean other rows.

    `keep`: remembers the data of a run that begins; only for a process that holds the lease.
    """
    path = run_dir / DATA
    known, _, parts = path.read_text(encoding="utf-8").partition("\n") if path.exists() else ("", "", "")
    if known == identity.fingerprint:
        return
    if known and known != identity.earlier:
        before = json.loads(parts) if parts else {}
        changed = [name for name, digest in identity.parts.items() if before and before.get(name) != digest]
        what = ", ".join(changed) or "a data file, the tokenizer or an option of the task"
        has = "has" if len(changed) < 2 else "have"
        raise CheckpointError(f"{run_dir} began on other data: {what} {has} changed since. Use another --run-dir")
    if keep:
        write_atomically(path, f"{identity.fingerprint}\n{json.dumps(identity.parts)}")


def write_run_dir(run: Run) -> None:
    """Create the directory and write the recipe, as given and as resolved; for the start that holds the lease.

    Raises CheckpointError if a start that came before it wrote another recipe there meanwhile, if another user's link
    leads out of the directory, or if it cannot be written to: the disk is full, the right is missing, or a file is in
    the way.
    """
    try:
        _write_run_dir(run)
    except OSError as error:
        raise CheckpointError(
            f"{run.run_dir} cannot be written to ({error.strerror}); free space, or give another --run-dir, or "
            "--sweep-dir for a sweep"
        ) from error


def _write_run_dir(run: Run) -> None:
    run_dir = run.run_dir
    refuse_another_recipe(run.recipe, run_dir)
    refuse_links(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    if run.forked_from is not None and not (run_dir / FORKED_FROM).exists():
        changes = learned_differences(read_config(run.forked_from), run.recipe)
        write_atomically(
            run_dir / FORKED_FROM, json.dumps({"run_dir": str(run.forked_from), "changes": changes}, indent=1)
        )
    for folder in (run_dir / "logs", run_dir / CHECKPOINTS, run_dir / EXPORT):
        folder.mkdir(exist_ok=True)
    if not run.recipe_path.is_dir() and not (run_dir / RECIPE).exists():
        # What is left of secrets stands in comments.
        write_atomically(run_dir / RECIPE, redact(run.recipe_path.read_text(encoding="utf-8")))
    if not run.is_as_kept:
        write_atomically(run_dir / CONFIG, render_recipe(run.recipe))
