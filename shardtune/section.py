"""What every section of a recipe has in common: frozen, strict, and no key that nobody reads."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One mapping of the recipe. Each field's docstring is its documentation (docs/recipe.md, JSON schema)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)


CAUSAL_METRICS = ("perplexity", "token_accuracy")
"""The metrics of every task that learns which token comes next, each one number."""


class TaskOptions(Section):
    """The `task` section of a recipe; each family adds its keys."""

    can_pack: ClassVar[bool] = False
    """Whether rows may share a row of a batch, if the model keeps them apart."""

    kind: str

    def metric_names(self) -> tuple[str, ...]:
        """The metrics of the task that are one number, so that a recipe can choose the best model by any of them.

        The loss is not among them; every task has it.
        """
        raise NotImplementedError
