"""The labels of a model that was trained elsewhere: which ones its head has, and how the rows spell them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shardtune.errors import DataError
from shardtune.recipe.schema import Recipe
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.section import TaskOptions
from shardtune.trainer.tasks import TASKS
from shardtune.trainer.tasks.head_labels import are_named
from shardtune.trainer.tasks.run_survey import run_survey

PROBLEMS = {
    "regression": "regression",
    "single_label_classification": "single_label",
    "multi_label_classification": "multi_label",
}
"""What transformers calls the problems of a classification."""
NAMES = {"classification": "label_names", "token_classification": "types"}
"""The key of a task that names its labels."""


def problem_of(config: Any) -> str:
    """The problem that a classifier of this config solves; without a word on it, one output is a number."""
    named = PROBLEMS.get(getattr(config, "problem_type", None) or "")
    return named or ("regression" if config.num_labels == 1 else "single_label")


def label_names(options: TaskOptions, config: Any, folder: Path, *, is_adapter: bool) -> tuple[str, ...] | None:
    """The labels, or the types of entities, that the head has, in its order; None for a task without names.

    Those of the options are taken, if there are any. Raises DataError if there are not as many as outputs.
    """
    key = NAMES.get(options.kind)
    if key is None or getattr(options, "problem", None) == "regression":
        return None
    head = [str(config.id2label[number]) for number in sorted(config.id2label)]
    given: tuple[str, ...] | None = getattr(options, key)
    if options.kind == "token_classification":
        return given or _types(head, folder)
    if given is not None and len(given) != len(head) and not is_adapter:
        raise DataError(f"task.{key}: {len(given)} names, but the head of {folder} has {len(head)} outputs")
    return given or tuple(head if are_named(head) else map(str, range(len(head))))


def _types(head: Sequence[str], folder: Path) -> tuple[str, ...]:
    types = tuple(dict.fromkeys(name[2:] for name in head if name[:2] in ("B-", "I-")))
    if not types or {*head} != {"O", *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")}:
        raise DataError(
            f"{folder}: the labels of its head ({', '.join(head[:10])}) are not O and, of each type, B- and I-; such a "
            "model cannot be evaluated here"
        )
    return types


def facts_of_rows(
    recipe: Recipe, names: Sequence[str] | None, head: Sequence[str], rows: Sequence[Row], faults: Faults
) -> tuple[dict[str, Any], list[str]]:
    """What the task has to know of the rows of an evaluation, and notes on it; `names` are the labels of the model.

    `head` are the labels of its outputs. Adds the rows with other labels to the faults. Raises DataError for what is
    wrong with the rows as a whole.
    """
    task = TASKS[recipe.task.kind]
    if names is None:
        return _survey(recipe.task, rows, faults)
    first, _ = _survey(_named(recipe.task, names), rows, Faults())
    found = task.label_counts(first).get("train", {}) if first else {}
    spelled, note = _as_in_rows(names, found)
    facts, notes = _survey(_named(recipe.task, spelled), rows, faults)
    if recipe.task.kind == "token_classification" and facts:
        other = dict(zip(names, spelled, strict=True))
        facts = task.with_head_labels(facts, [name[:2] + other[name[2:]] if name != "O" else name for name in head])
    return facts, [*notes, *note]


def _as_in_rows(names: Sequence[str], found: Mapping[str, int]) -> tuple[tuple[str, ...], list[str]]:
    """The labels as the rows write them, if that differs in capitals only and is not ambiguous; and a note on it."""
    written: dict[str, list[str]] = {}
    for name in found:
        written.setdefault(name.casefold(), []).append(name)
    folded = [name.casefold() for name in names]
    spelled = [
        written[key][0] if name not in found and len(written.get(key, ())) == 1 and folded.count(key) == 1 else name
        for name, key in zip(names, folded, strict=True)
    ]
    changed = [f"{ours} for {theirs}" for ours, theirs in zip(spelled, names, strict=True) if ours != theirs]
    return tuple(spelled), [
        f"labels of the rows taken for those of the model: {', '.join(changed[:10])}"
    ] if changed else []


def _named(options: TaskOptions, names: Sequence[str]) -> TaskOptions:
    return options.model_copy(update={NAMES[options.kind]: tuple(names)})


def _survey(options: TaskOptions, rows: Sequence[Row], faults: Faults) -> tuple[dict[str, Any], list[str]]:
    survey = TASKS[options.kind].survey(options)
    survey.is_evaluation = True
    run_survey(survey, faults, lambda current, found: {"train": [current.observe("train", rows, found)]})
    return survey.facts, list(survey.notes)
