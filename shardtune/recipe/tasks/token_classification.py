"""What a recipe may say of token classification."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shardtune.section import TaskOptions


class TokenClassificationOptions(TaskOptions):
    """Token classification, such as named entity recognition: a tag for each word, or spans of a text."""

    can_pack: ClassVar[bool] = True

    kind: Literal["token_classification"]
    types: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """The types of entities in the order of their ids. None takes those of the training rows, sorted."""
    scheme: Literal["auto", "bio", "iob1", "bioes"] = "auto"
    """What the tags are written in. BILOU and BMES are read as bioes; `auto` looks at the rows."""
    on_bad_tag: Literal["error", "repair"] = "error"
    """What becomes of a tag that is illegal after the one before it, such as I-PER after O. A repaired one begins an
    entity, as in conlleval."""
    mark_capitals: bool = False
    """Tells an uncased model which words have capitals, for its tokenizer takes them away, and names have them: by the
    token types, 1 for the pieces of such a word. For models that have token types (BERT and its like). Who uses the
    exported model without shardtune has to give it the same."""
    stride: Annotated[int, Field(ge=0)] = 32
    """A sentence of more than data.max_tokens is cut into windows, never within an entity. Each sees this many tokens
    of its neighbours, but a quarter of data.max_tokens at most; each word is scored in one window alone."""

    def metric_names(self) -> tuple[str, ...]:
        return ("precision", "recall", "f1", "precision_macro", "recall_macro", "f1_macro", "token_accuracy")
