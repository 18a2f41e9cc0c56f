"""What a recipe may say of translation."""

from __future__ import annotations

import string
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions

PROMPT = "Translate from {source_language} to {target_language}:\n{source}\n"


Name = Annotated[str, Field(min_length=1)]


class TranslationOptions(TaskOptions):
    """Translation of texts. Rows have `source` and `target`, or a column or a `translation` by language."""

    can_pack: ClassVar[bool] = True

    kind: Literal["translation"]
    source_language: Name | None = None
    """The language that is read, such as `en`: its column, or its side of `{"translation": {"en": …, "fr": …}}`, where
    the rows have no `source` and `target`. `en` is also en-US and en_GB, if only one of them is there. Prompts name it
    in English."""
    target_language: Name | None = None
    """The language that is written. It also chooses how BLEU cuts texts into words."""
    architecture: Literal["auto", "encoder_decoder", "causal"] = "auto"
    """What translates: an encoder-decoder such as Marian, T5, mBART, M2M100 or NLLB, which has data.max_tokens for each
    side; or a causal language model that is asked with a prompt, which has them for both together. `auto` goes by the
    model's config."""
    source_code: Name | None = None
    """What the tokenizer of a multilingual model calls the source language, such as `en_XX` or `eng_Latn`. None finds
    it by source_language."""
    target_code: Name | None = None
    """The same of the target language: the decoder begins with it, or is made to say it first."""
    prefix: str = ""
    """encoder_decoder: put before every source, such as T5's `"translate English to German: "` or Marian's
    `">>deu<< "`."""
    prompt: str = PROMPT
    """causal: what the model is asked. `{source}` stands for the text, `{source_language}` and `{target_language}` for
    the English names of the languages."""
    use_chat_template: bool | None = None
    """causal: whether the prompt is a turn of a chat. None makes it one if the tokenizer has a chat template."""
    num_beams: PositiveInt = 1
    """Beams of the search for translations, in evaluations and in predict; 1 is greedy."""
    max_new_tokens: PositiveInt = 128
    """No translation is longer."""
    dev_rows: PositiveInt | None = 200
    """An evaluation on dev translates so many rows, evenly spaced; None all. Its loss, and the test at the end, are
    always of all rows."""
    bleu_tokenizer: Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "auto"
    """How sacrebleu cuts texts into words. `auto` goes by target_language, or by the script of the targets: zh for
    Chinese, ja-mecab or ko-mecab for Japanese or Korean where MeCab is installed (`pip install 'sacrebleu[ja]'`), or
    else char; 13a for the others."""

    @field_validator("prompt")
    @classmethod
    def _prompt_has_its_places(cls, prompt: str) -> str:
        try:
            places = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
        except ValueError as error:
            raise ValueError(f"braces that do not match ({error})") from error
        unknown = sorted(set(places) - {"source", "source_language", "target_language"})
        if unknown:
            raise ValueError(f"no place {unknown[0]!r}; legal: source, source_language, target_language, in braces")
        if places.count("source") != 1:
            raise ValueError("it has to hold {source} once")
        return prompt

    def metric_names(self) -> tuple[str, ...]:
        return ("bleu", "chrf", "exact_match", *CAUSAL_METRICS)
