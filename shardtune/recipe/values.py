"""Kinds of values that keys of several sections have."""

from typing import Annotated

from pydantic import Discriminator, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
NUMBER_OR_WORD = Discriminator(lambda value: "word" if isinstance(value, str) else "number")
"""Tells a number from a word such as `auto`, so that a wrong value is one fault instead of two."""
