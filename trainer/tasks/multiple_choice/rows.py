"""What a row of multiple choice holds: a question, its choices, and which of them is right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shardtune.rows.source import check_text, shown
from shardtune.trainer.tasks.classification.label_lists import list_in, name_of

if TYPE_CHECKING:
    from shardtune.recipe.tasks.multiple_choice import MultipleChoiceOptions
    from shardtune.rows.source import Faults, Row

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def choices_of(values: Mapping[str, Any]) -> tuple[list[str], list[str] | None]:
    """The texts of the choices, and their labels if they have some. Raises ValueError, with what was found."""
    found = values.get("choices")
    labels = None
    if isinstance(found, Mapping) and set(found) == {"text", "label"}:
        found, labels = found["text"], found["label"]
    elif isinstance(found, Mapping):
        found = list(found.values())
    elif isinstance(found, str) and found.strip()[:1] == "[":
        found = list_in(found.strip())  # as pandas writes a list into a CSV file
    if not isinstance(found, list | tuple) or not all(_is_choice(text) for text in found):
        raise ValueError(f"choices: expected a list of texts, got {shown(values.get('choices'))}")
    if len(found) < 2:
        raise ValueError(f"choices: a question needs at least two, got {shown(found)}")
    texts = [str(text).strip() for text in found]
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise ValueError(f"choices: {twice!r:.60} is there twice")
    if labels is not None and (not isinstance(labels, list) or len(labels) != len(texts)):
        raise ValueError(f"choices: {len(texts)} texts, but label is {shown(labels)}")
    return texts, None if labels is None else [str(label) for label in labels]


def answer_of(values: Mapping[str, Any], options: MultipleChoiceOptions) -> int:
    """The number of the right choice, from 0. Raises ValueError, with what was found."""
    texts, labels = choices_of(values)
    answer = values.get("answer")
    try:
        named = None if isinstance(answer, bool) else name_of(answer)
    except ValueError:
        named = None
    if named is None:
        raise ValueError("no answer" if answer is None else f"answer: expected a number or a text, got {shown(answer)}")
    meanings = _meanings(named, texts, labels)
    if options.answer == "auto":
        wanted = ["label"] if labels is not None and "label" in meanings else ["text", "letter", "index"]
        found = {meanings[name] for name in wanted if name in meanings}
        if len(found) > 1:
            raise ValueError(f"answer: {answer!r} may be several of the choices; set task.answer")
    else:
        found = {meanings[options.answer]} if options.answer in meanings else set()
    if not found:
        kind = "" if options.answer == "auto" else f" ({options.answer.replace('_', ' ')})"
        raise ValueError(f"answer: {shown(answer)}{kind} is none of the {len(texts)} choices")
    return found.pop()


def _is_choice(value: Any) -> bool:
    """Whether this may be a choice: a text that is not blank, or a number."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and bool(str(value).strip())


def _meanings(answer: str, texts: list[str], labels: list[str] | None) -> dict[str, int]:
    """The number of the choice that an answer is in each way to read it."""
    ways: dict[str, list[str]] = {
        "label": labels or [],
        "text": texts,
        "letter": list(LETTERS[: len(texts)]),
        "index": [str(number) for number in range(len(texts))],
        "index_from_1": [str(number) for number in range(1, len(texts) + 1)],
    }
    whole = answer.removesuffix(".0")  # pandas makes floats of whole numbers as soon as a value is missing
    read = {way: whole if way.startswith("index") else answer for way in ways}
    return {way: names.index(read[way]) for way, names in ways.items() if read[way] in names}


def check_question(row: Row, faults: Faults) -> None:
    """Adds what is wrong with the question and its choices."""
    check_text(row, "question", faults)
    try:
        choices_of(row.values)
    except ValueError as error:
        faults.add(row, str(error))


def check_answer(row: Row, options: MultipleChoiceOptions, faults: Faults) -> None:
    """Adds what is wrong with the answer, if the choices are right."""
    try:
        choices_of(row.values)
    except ValueError:
        return
    try:
        answer_of(row.values, options)
    except ValueError as error:
        faults.add(row, str(error))
