"""The `task` section of token classification."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shardtune.section import TaskOptions, TextFiles


class TokenClassificationOptions(TaskOptions):
    """Token classification, such as named entity recognition: one tag per word, or spans of a text."""

    can_pack: ClassVar[bool] = True
    has_labels: ClassVar[bool] = True
    text_files: ClassVar[TextFiles] = "words"

    kind: Literal["token_classification"]
    types: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The entity types in the order of their ids. None uses the types in the training rows, sorted. Tags without a
    type, such as B alone, get the only type that is named here, or ENTITY."""
    tag_names: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The tags by their numbers, such as `[O, B-PER, I-PER]`, for rows whose tags are numbers: the name of 0 first."""
    scheme: Literal["auto", "bio", "iob1", "bioes", "io"] = "auto"
    """The tagging scheme of the tags. BILOU and BMES are read as bioes; `auto` detects the scheme from the rows, but
    for `io`, where a tag is the name of a type, and neighbours with the same tag are one entity."""
    on_bad_tag: Literal["error", "repair"] = "error"
    """What to do with a tag that is illegal after the previous one, such as I-PER after O. `repair` lets it begin an
    entity, as conlleval does."""
    mark_capitals: bool = False
    """Tells an uncased model which words are capitalized, which helps with names: the token type of each piece of such
    a word is 1. For models with token types (BERT and similar). Anyone who uses the exported model without shardtune
    has to set the token types in the same way."""
    stride: Annotated[int, Field(ge=0)] = 32
    """A sentence longer than data.max_tokens is split into windows, never within an entity. Each window also sees this
    many tokens of its neighbours, at most a quarter of data.max_tokens; every word is scored in exactly one window."""

    def metric_names(self) -> tuple[str, ...]:
        return ("precision", "recall", "f1", "precision_macro", "recall_macro", "f1_macro", "token_accuracy")
