"""Reads labeled rows as the data of a run are read: its columns, its facts, and what its recipe says of bad rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.columns import Synonyms, plain
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row, read_options, read_source
from shardtune.rows.source_config import SourceConfig
from shardtune.rows.source_files import is_hub
from shardtune.shell_line import shell_line
from shardtune.trainer.data.prepare.bad_row_policy import BadRowPolicy
from shardtune.trainer.data.prepare.sources import HOW_READ, SPLITS, with_named_columns
from shardtune.trainer.tasks import TASKS, Task

Say = Callable[[str], None]
Look = Callable[[Sequence[Row], Faults], dict[str, Any]]
"""Adds what is wrong with rows to the faults, and returns what the task has to know to encode and count them."""


def read_labeled_rows(
    paths: Sequence[str], recipe: Recipe, look: Look, say: Say, *, run_dir: Path | None = None
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of these paths, each of which may be whatever data.test may name, and the facts that `look` returns.

    A path that the recipe names is read as there. `say` is called with what is guessed and skipped. Raises DataError
    if there are no rows, if they have no labels or others than the model knows, or if any is malformed.
    """
    if repeated := sorted({path for path in paths if paths.count(path) > 1}):
        raise DataError(f"--data: {repeated[0]} is given twice; give each path once")
    faults = Faults()
    rows = [row for number, path in enumerate(paths) for row in _rows_of(number, path, recipe, faults, say)]
    facts = look(rows, faults)
    if rows and faults.rows >= {row.key for row in rows} and _are_unlabeled(rows, TASKS[recipe.task.kind]):
        how = "" if run_dir is None else f", by `{shell_line('predict', run_dir)} --file={paths[0]}`"
        raise DataError(f"{faults.first[0]}; rows without labels, or replies, can only be predicted{how}")
    policy = BadRowPolicy(recipe.data.on_bad_row)
    policy.skip(faults)
    good = [row for row in rows if row.key not in faults.rows]
    if policy.summary is not None:
        say(policy.summary)
    if not good:
        raise BadRowsError(faults) if faults else DataError(f"{', '.join(paths)}: contains no rows")
    return good, facts


def as_learned(recipe: Recipe, facts: Mapping[str, Any]) -> Look:
    """Looks for rows that do not fit what a run knows of its training rows."""

    def look(rows: Sequence[Row], faults: Faults) -> dict[str, Any]:
        task = TASKS[recipe.task.kind]
        task.survey(recipe.task).observe("test", rows, faults)
        known = task.survey(recipe.task)
        if known.adopt(facts):
            known.observe("test", [row for row in rows if row.key not in faults.rows], faults)
        return dict(facts)

    return look


def _are_unlabeled(rows: Sequence[Row], task: type[Task]) -> bool:
    """Whether no row has a column of labels; or, where what is learned has no column of its own, whether all are as
    a prediction needs them."""
    if labels := {*task.columns} - {*task.input_columns}:
        return not any(labels & row.values.keys() for row in rows)
    faults = Faults()
    for row in rows:
        task.check_inputs(row, faults)
    return not faults


def _rows_of(number: int, path: str, recipe: Recipe, faults: Faults, say: Say) -> list[Row]:
    """The rows of a path under our names for their columns; adds to `faults`."""
    source, synonyms = _source_of(path, recipe)
    options = read_options(source, text_unit=recipe.data.text_unit, text_files=recipe.task.text_files)
    rows = read_source(
        source,
        faults,
        number=number,
        split="test",
        synonyms=synonyms,
        options=options,
        say=lambda text: say(f"{path}: {text}"),
    )
    return [with_named_columns(row, recipe) for row in rows]


def _source_of(path: str, recipe: Recipe) -> tuple[SourceConfig, Synonyms]:
    """The path as a source of the recipe, and the names by which its columns are found.

    A path that the recipe does not name is read like its first source of this ending, and may call its columns as any
    of its sources do.
    """
    data, task = recipe.data, TASKS[recipe.task.kind]
    place = path if is_hub(path) else str(Path(path).absolute())
    sources = [source for split in reversed(SPLITS) for source in data.sources(split)]
    own = next((source for source in sources if source.path == place), None)
    synonyms = {name: names if data.guess_columns else () for name, names in task.column_guesses.items()}
    if own is not None:
        columns = data.columns if own.columns is None else own.columns
        return own.model_copy(update={"columns": columns}), synonyms
    like = next((source for source in sources if Path(source.path).suffix == Path(path).suffix), None)
    how = {key: getattr(like, key) for key in HOW_READ} if like is not None else {}
    for source in sources:
        for name, column in (source.columns or {}).items():
            if isinstance(column, str):
                synonyms[name] = (plain(column), *synonyms.get(name, ()))
    return SourceConfig(path=path).model_copy(update={"columns": data.columns, **how}), synonyms
