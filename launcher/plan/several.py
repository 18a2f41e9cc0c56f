"""Recipe + flags -> the runs of `shardtune run` and `submit` where these mean several: of train.seeds, or --fractions.

Both are sweeps (sweep.py): the runs share a directory, in which each has a run directory of its own.
"""

from collections.abc import Sequence
from pathlib import Path

from shardtune.errors import ConfigError
from shardtune.home import expand_home
from shardtune.launcher.plan.sweep import (
    MOST_POINTS,
    SWEEP,
    Draft,
    Kind,
    SweepPlan,
    lay_out,
    load_sweep,
    seed_drafts,
    with_seed,
)
from shardtune.recipe.load import learning_hash, load_recipe
from shardtune.recipe.schema import Recipe
from shardtune.run_dir.files import CONFIG


def plan_several(
    path: Path, overrides: Sequence[str], run_dir: Path | None, fractions: str | None = None
) -> SweepPlan | None:
    """The runs that a command line means; None if it means a single one.

    `path` is a recipe, or the directory of such runs to resume. Raises ConfigError, or CheckpointError if a run
    directory belongs to another recipe.
    """
    if path.is_dir():
        return _resumed(path, overrides, run_dir, fractions)
    recipe = load_recipe(path, overrides)
    if fractions is None and recipe.train.seeds is None:
        _refuse_directory_of_several(run_dir)
        return None
    kind: Kind = "seeds" if fractions is None else "fractions"
    drafts = seed_drafts(Draft((), recipe)) if fractions is None else _fraction_drafts(recipe, fractions_of(fractions))
    if len(drafts) > MOST_POINTS:
        raise ConfigError(f"{len(drafts)} runs are too many, at most {MOST_POINTS}; give fewer seeds or fractions")
    if run_dir is None:
        run_dir = Path("runs") / f"{path.stem}-{kind}-{_common_hash(recipe)}"
    run_dir = expand_home(run_dir)
    _refuse_run_dir(run_dir, kind)
    numbers = [draft.recipe.train.seed for draft in drafts] if kind == "seeds" else _numbers(run_dir, drafts)
    return lay_out(kind, path, run_dir, dict(zip(numbers, drafts, strict=True)))


def _fraction_drafts(recipe: Recipe, fractions: Sequence[float]) -> list[Draft]:
    """What is trained on each fraction, with each of the seeds. Raises ConfigError where that is no learning curve."""
    if recipe.data.streaming:
        raise ConfigError("--fractions: a part of a stream cannot be chosen; set data.streaming=false")
    if recipe.data.fraction != 1:
        raise ConfigError(
            f"--fractions: the recipe has data.fraction={recipe.data.fraction:g} already; remove one of them"
        )
    if recipe.train.max_steps is not None:
        raise ConfigError(
            f"train.max_steps={recipe.train.max_steps} would train each fraction for the same number of steps, not of "
            "epochs; for --fractions set train.max_steps=null and train.num_epochs"
        )
    return [
        draft
        for fraction in fractions
        for draft in seed_drafts(Draft((f"data.fraction={fraction:g}",), _with_fraction(recipe, fraction)))
    ]


def _with_fraction(recipe: Recipe, fraction: float) -> Recipe:
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"fraction": fraction})})


def fractions_of(text: str) -> list[float]:
    """`0.1,0.3,1.0` -> the fractions, in rising order. Raises ConfigError for anything but two or more of them."""
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError:
        raise ConfigError(f"--fractions: expected numbers such as 0.1,0.3,1.0, got {text!r}") from None
    if not all(0 < fraction <= 1 for fraction in found):
        raise ConfigError(f"--fractions: each is above 0 and at most 1, got {text}")
    if len(found) < 2:
        raise ConfigError(f"--fractions: a curve needs at least two, better three or four, got {text}")
    return found


def _resumed(path: Path, overrides: Sequence[str], run_dir: Path | None, fractions: str | None) -> SweepPlan | None:
    """The runs in a directory; None if it is that of a single run."""
    if not (path / SWEEP).is_file():
        if fractions is not None:
            raise ConfigError(
                f"--fractions: needs a recipe, got the directory {path}; each fraction is a run of its own"
            )
        return None
    if overrides or fractions is not None or run_dir is not None:
        given = overrides[0] if overrides else "--fractions" if fractions is not None else "--run-dir"
        raise ConfigError(
            f"{given}: the runs in {path} are fixed; give the recipe, with --run-dir={path}, to change them"
        )
    return load_sweep(path)


def _numbers(run_dir: Path, drafts: Sequence[Draft]) -> list[int]:
    """The numbers of the drafts: those that they have in the directory already, and for others the next ones."""
    points = load_sweep(run_dir).points if (run_dir / SWEEP).is_file() else ()
    known = {point.overrides: point.number for point in points}
    for draft in drafts:
        known.setdefault(draft.overrides, max(known.values(), default=0) + 1)
    return [known[draft.overrides] for draft in drafts]


def _refuse_directory_of_several(run_dir: Path | None) -> None:
    if run_dir is not None and (expand_home(run_dir) / SWEEP).is_file():
        raise ConfigError(f"--run-dir: {run_dir} holds several runs (it has a {SWEEP}); give another one")


def _refuse_run_dir(run_dir: Path, kind: Kind) -> None:
    if (run_dir / CONFIG).is_file():
        raise ConfigError(f"--run-dir: {run_dir} is the directory of a single run; give another one for several")
    if (run_dir / SWEEP).is_file() and (found := load_sweep(run_dir).kind) != kind:
        raise ConfigError(f"--run-dir: {run_dir} holds other runs ({found}, not {kind}); give another one")


def _common_hash(recipe: Recipe) -> str:
    """Names what the runs have in common, so that a seed or a fraction that is added finds the others."""
    return learning_hash(with_seed(recipe, 0))
