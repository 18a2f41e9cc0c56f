"""The `task` section of language modelling."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions

Objective = Literal["causal", "masked"]

ONLY_FOR: dict[str, Objective] = {"stride": "causal", "mask_probability": "masked", "whole_words": "masked"}
"""Key -> the objective that it applies to."""


class LanguageModelingOptions(TaskOptions):
    """Language modelling: training on plain texts, each row one document."""

    can_pack: ClassVar[bool] = True
    predicts_tokens: ClassVar[bool] = True

    kind: Literal["language_modeling"]
    objective: Literal["auto", "causal", "masked"] = "auto"
    """`causal` predicts the next token, and an end-of-text token after each document; `masked` predicts hidden tokens
    of each text, different ones each time. `auto` takes the objective that the model was built for."""
    stride: Annotated[int, Field(ge=0)] = 0
    """causal: a document longer than data.max_tokens is split into pieces, and each of its tokens is learned once. A
    piece also sees this many tokens of the previous one, at most half of data.max_tokens."""
    mask_probability: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """masked: the fraction of a text's tokens to predict, at least one. Of these, 80 % are replaced by [MASK], 10 % by
    a random token, and 10 % are unchanged."""
    whole_words: bool = False
    """masked: hides either all tokens of a word or none."""

    @model_validator(mode="after")
    def _keys_fit_the_objective(self) -> LanguageModelingOptions:
        if self.objective != "auto" and (faults := self.misplaced_keys(self.objective)):
            raise ValueError("; ".join(faults))
        return self

    def misplaced_keys(self, objective: Objective) -> list[str]:
        """An error message for each key that applies only to the other objective."""
        fields = type(self).model_fields
        return [
            f"{key} does not apply to a {objective} objective, only to a {other} one; remove it"
            for key, other in ONLY_FOR.items()
            if other != objective and getattr(self, key) != fields[key].default
        ]

    def metric_names(self) -> tuple[str, ...]:
        return CAUSAL_METRICS
