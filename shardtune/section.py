"""What all sections of a recipe have in common: frozen, strict, and unknown keys are refused."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

TextFiles = Literal["text", "words", "classes"]
"""What text files may hold for a task: texts alone; words in columns; or one text each, in a folder per class."""


class Section(BaseModel):
    """One mapping of the recipe. The docstring of each field is its documentation (docs/recipe.md, JSON schema)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


CAUSAL_METRICS = ("perplexity", "token_accuracy")
"""The metrics of every task that predicts the next token, each a single number."""


class TaskOptions(Section):
    """The `task` section of a recipe; each task adds its keys."""

    can_pack: ClassVar[bool] = False
    """Whether several rows may be packed into one sequence, if the model keeps them apart."""
    has_labels: ClassVar[bool] = False
    """Whether the model has a head whose outputs are labels or a number, instead of one for texts."""
    predicts_tokens: ClassVar[bool] = False
    """Whether its targets are tokens, over whose vocabulary the pretrained model has a distribution."""
    list_columns: ClassVar[frozenset[str]] = frozenset()
    """The columns that may stand for several columns of the data (data.columns)."""
    text_files: ClassVar[TextFiles] = "text"
    """What text files without further information hold."""

    kind: str

    def metric_names(self) -> tuple[str, ...]:
        """The task's metrics that are a single number, any of which can select the best model.

        The loss is not among them; every task has it.
        """
        raise NotImplementedError

    def loss_note(self) -> str | None:
        """One line on what keys put into the loss, by which it differs between recipes; None if they put nothing."""
        return None
