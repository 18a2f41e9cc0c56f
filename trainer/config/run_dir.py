"""What a run directory is called and what its first files say.

A recipe has one default directory, named after what it teaches: the same command again goes on, a changed recipe starts
a run of its own.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainer.config.errors import CheckpointError, ConfigError
from trainer.config.load import differences, learning_hash, load_recipe, parse_recipe, render_recipe
from trainer.config.schema import LEARNING_SECTIONS, Recipe

CONFIG, RECIPE, RESULTS, METRICS, STOP = "config.yaml", "recipe.yaml", "results.json", "metrics.jsonl", "stop"
LEASE = "lease.json"
"""Names the start that may write the directory (trainer/lease.py)."""
DATA = "data_fingerprint"
"""Names the prepared data that the run began on (trainer/data/prepare.py)."""
FACTS = "facts.json"
"""What the task had to know of the training data, such as its label names; predict needs it again."""

EXIT_OK, EXIT_BUG, EXIT_USER, EXIT_RESUME, EXIT_INTERRUPTED = 0, 1, 2, 75, 130
"""75 is sysexits.h's EX_TEMPFAIL: asked to stop, a checkpoint is saved, start it again to go on. 130: Ctrl-C."""


def find_run(path: Path, overrides: Sequence[str], run_dir: Path | None) -> tuple[Recipe, Path]:
    """The recipe and the run directory that a command line means: a recipe, or a run directory to go on with.

    Raises ConfigError for whatever is wrong with the recipe, CheckpointError if the directory belongs to another one.
    """
    if path.is_dir():
        if run_dir is not None:
            raise ConfigError(f"{path} is a run directory already; --run-dir goes with a recipe")
        if not (path / CONFIG).is_file():
            raise ConfigError(
                f"{path}: not a run directory (there is no {CONFIG}); give a recipe such as recipes/x.yaml"
            )
        path, run_dir = path / CONFIG, path
    recipe = load_recipe(path, overrides)
    if run_dir is None:
        run_dir = Path("runs") / f"{path.stem}-{learning_hash(recipe)}"
    run_dir = run_dir.absolute()
    refuse_another_recipe(recipe, run_dir)
    return recipe, run_dir


def refuse_another_recipe(recipe: Recipe, run_dir: Path) -> None:
    """Raises CheckpointError if the directory's recipe teaches something else: its checkpoints would not fit."""
    if not (run_dir / CONFIG).is_file():
        return
    before = parse_recipe((run_dir / CONFIG).read_text(encoding="utf-8"), name=str(run_dir / CONFIG))
    if learning_hash(before) == learning_hash(recipe):
        return
    changed = [line for line in differences(before, recipe) if line.split(".")[0] in LEARNING_SECTIONS]
    raise CheckpointError(
        f"{run_dir} belongs to another recipe:\n  " + "\n  ".join(changed) + "\nGive this one a --run-dir of its own"
    )


def refuse_other_data(run_dir: Path, fingerprint: str) -> None:
    """Raises CheckpointError if the run began on other data: its order of rows, a step number, would mean others."""
    path = run_dir / DATA
    if not path.exists():
        write_atomically(path, fingerprint)
    elif path.read_text(encoding="utf-8") != fingerprint:
        raise CheckpointError(
            f"{run_dir} began on other data: a data file, the tokenizer or an option of the task has changed since. "
            "Give this one a --run-dir of its own"
        )


def write_run_dir(recipe: Recipe, run_dir: Path, recipe_path: Path) -> None:
    """Makes the directory and writes the recipe as given and as resolved. All ranks may do so at once."""
    for folder in (run_dir, run_dir / "logs", run_dir / "checkpoints", run_dir / "export"):
        folder.mkdir(parents=True, exist_ok=True)
    if not recipe_path.is_dir() and not (run_dir / RECIPE).exists():
        write_atomically(run_dir / RECIPE, recipe_path.read_text(encoding="utf-8"))
    write_atomically(run_dir / CONFIG, render_recipe(recipe))


def write_atomically(path: Path, text: str) -> None:
    """Whoever reads the path finds the old text or the new one, whole, also after a power cut."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
    ) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)


def failure_path(run_dir: Path, rank: int | str) -> Path:
    """Where a rank says what it died of: JSON with rank, host, time (seconds since the epoch) and text."""
    return run_dir / "logs" / f"rank-{rank}.failure.json"
