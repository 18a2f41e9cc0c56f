"""What a recipe may say of language modelling."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions

Objective = Literal["causal", "masked"]

ONLY_FOR: dict[str, Objective] = {"stride": "causal", "mask_probability": "masked", "whole_words": "masked"}
"""The objective that a key says something about."""


class LanguageModelingOptions(TaskOptions):
    """Language modelling: a model learns from texts alone, each row one document."""

    can_pack: ClassVar[bool] = True

    kind: Literal["language_modeling"]
    objective: Literal["auto", "causal", "masked"] = "auto"
    """What is learned: the next token, after which a document's end comes as one more (causal); or tokens that are
    hidden in each text, others every time (masked). `auto` takes what the model was made for."""
    stride: Annotated[int, Field(ge=0)] = 0
    """causal: a document of more than data.max_tokens is cut into pieces, and each of its tokens is learned once. A
    piece sees this many tokens of the one before, but half of data.max_tokens at most."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """masked: the part of a text's tokens that is learned; at least one. Of ten, eight are shown as [MASK], one as any
    token, and one as it is."""
    whole_words: bool = False
    """masked: hides all tokens of a word, or none."""

    @model_validator(mode="after")
    def _keys_fit_the_objective(self) -> LanguageModelingOptions:
        if self.objective != "auto" and (faults := self.misplaced_keys(self.objective)):
            raise ValueError("; ".join(faults))
        return self

    def misplaced_keys(self, objective: Objective) -> list[str]:
        """An error message for each key that applies only to the other objective."""
        fields = type(self).model_fields
        return [
            f"{key} says nothing about a {objective} objective, only about a {other} one; remove it"
            for key, other in ONLY_FOR.items()
            if other != objective and getattr(self, key) != fields[key].default
        ]

    def metric_names(self) -> tuple[str, ...]:
        return CAUSAL_METRICS
