"""A column is guessed only if it is unambiguous."""

from typing import Any

import pytest

from shardtune.rows.columns import guess, plain, rename
from shardtune.trainer.tasks import TASKS

CLASSIFICATION, TOKENS = (TASKS[kind].column_guesses for kind in ("classification", "token_classification"))


@pytest.mark.parametrize(
    ("file_columns", "columns", "guessed"),
    [
        (["review", "sentiment"], {}, {"text": "review", "label": "sentiment"}),
        (["Review", "CLASS"], {}, {"text": "Review", "label": "CLASS"}),
        (["Text", "Label"], {}, {"text": "Text", "label": "Label"}),
        (["text", "label", "review"], {}, {}),
        (["review", "comment", "label"], {}, {}),
        (["review", "stars"], {"label": "stars"}, {"text": "review"}),
        (["review", "comment", "label"], {"text": "comment"}, {}),
        (["sentence1", "sentence2", "label"], {}, {"text": "sentence1", "text_pair": "sentence2"}),
        (["premise", "hypothesis", "label", "idx"], {}, {"text": "premise", "text_pair": "hypothesis"}),
        (["question", "sentence", "label"], {}, {}),
        (["id", "url"], {}, {}),
        ([], {}, {}),
    ],
)
def test_a_missing_column_is_guessed_if_exactly_one_other_has_a_name_for_it(
    file_columns: list[str], columns: dict[str, str], guessed: dict[str, str]
) -> None:
    assert guess(file_columns, CLASSIFICATION, columns) == guessed


def test_each_task_has_its_own_synonyms() -> None:
    assert guess(["id", "words", "ner-tags"], TOKENS, {}) == {"tokens": "words", "tags": "ner-tags"}
    assert guess(["text", "entities"], TOKENS, {}) == {"spans": "entities"}
    assert guess(["tokens", "tags", "labels", "words"], TOKENS, {}) == {}


def test_one_column_is_not_taken_for_two() -> None:
    assert guess(["body"], {"a": ("body",), "b": ("body",)}, {}) == {}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_a_task_guesses_are_columns_it_knows_by_names_in_lower_case(task: Any) -> None:
    assert set(task.columns) | set(task.input_columns) <= task.column_guesses.keys()
    assert all(name == plain(name) for names in task.column_guesses.values() for name in names)
    own = set(task.column_guesses)
    assert all(not own & set(names) for names in task.column_guesses.values())


@pytest.mark.parametrize(
    ("values", "columns", "renamed"),
    [
        ({"a": 1, "b": 2}, {"text": "a"}, {"text": 1, "b": 2}),
        ({"text": 1, "label": 2}, {"text": "label", "label": "text"}, {"text": 2, "label": 1}),
        ({"a": 1, "text": 2}, {"text": "a"}, {"text": 1}),
        ({"text": 2}, {"text": "a"}, {"text": 2}),
        ({"a": 1}, {"text": "a", "text_pair": "a"}, {"text": 1, "text_pair": 1}),
        ({"text": 1}, {"text": "text"}, {"text": 1}),
    ],
)
def test_columns_get_our_names(values: dict[str, Any], columns: dict[str, str], renamed: dict[str, Any]) -> None:
    rename(values, columns)
    assert values == renamed
