"""The `task` section of multiple choice."""

from __future__ import annotations

import string
from typing import ClassVar, Literal

from pydantic import field_validator

from shardtune.section import TaskOptions

PROMPT = "Question: {question}\nAnswer:"


class MultipleChoiceOptions(TaskOptions):
    """Multiple choice: which of a few answers a causal language model finds likeliest. Rows have `question`, `choices`
    (a list of texts, or several columns by data.columns) and `answer`."""

    list_columns: ClassVar[frozenset[str]] = frozenset({"choices"})

    kind: Literal["multiple_choice"]
    prompt: str = PROMPT
    """The text before a choice. `{question}` stands for the question. For beginnings of texts and their endings:
    `"{question}"`."""
    separator: str = " "
    """The text between prompt and choice, if there is no chat template. `""` for Chinese or Japanese."""
    use_chat_template: bool = False
    """Whether the prompt is wrapped in a user's turn, and the choice is the reply."""
    answer: Literal["auto", "index", "index_from_1", "letter", "text"] = "auto"
    """What the column `answer` holds: the number of the choice, counted from 0 or from 1; its letter, A for the first;
    or its text. `auto` finds out for each row: the label of a choice, if `choices` has labels (`{"text": […], "label":
    […]}`), a text that is one of the choices, a letter, or a number counted from 0; a row that has several meanings is
    an error."""

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_question(cls, prompt: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
        except ValueError as error:
            raise ValueError(f"unbalanced braces ({error})") from error
        if names != ["question"]:
            raise ValueError("must contain {question} exactly once, and no other placeholder")
        return prompt

    def metric_names(self) -> tuple[str, ...]:
        return ("accuracy", "accuracy_per_token")
