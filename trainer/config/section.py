"""What every section of a recipe has in common: frozen, strict, and no key that nobody reads."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """One mapping of the recipe. Each field's docstring is its documentation (docs/recipe.md, JSON schema)."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)
