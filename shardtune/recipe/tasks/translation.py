"""The `task` section of translation."""

from __future__ import annotations

import string
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from shardtune.section import CAUSAL_METRICS, TaskOptions

PROMPT = "Translate from {source_language} to {target_language}:\n{source}\n"


Name = Annotated[str, Field(min_length=1)]


class TranslationOptions(TaskOptions):
    """Translation of texts. Rows have `source` and `target`; or one column per language; or a `translation` that maps
    languages to texts."""

    can_pack: ClassVar[bool] = True
    predicts_tokens: ClassVar[bool] = True

    kind: Literal["translation"]
    source_language: Name | None = None
    """The language of the source, such as `en`: names its column, or its key in `{"translation": {"en": …, "fr": …}}`,
    if rows have no `source` and `target`. `en` also matches en-US or en_GB if only one of them occurs. Prompts use its
    English name."""
    target_language: Name | None = None
    """The language of the target. Also selects how BLEU splits texts into words."""
    architecture: Literal["auto", "encoder_decoder", "causal"] = "auto"
    """The kind of model: an encoder-decoder such as Marian, T5, mBART, M2M100 or NLLB, where data.max_tokens limits
    each side; or a causal language model with a prompt, where it limits both sides together. `auto` is decided by the
    model's config."""
    source_code: Name | None = None
    """The code of the source language in a multilingual model's tokenizer, such as `en_XX` or `eng_Latn`. None derives
    it from source_language."""
    target_code: Name | None = None
    """The same for the target language: the decoder starts with it, or is forced to generate it first."""
    prefix: str = ""
    """encoder_decoder: text before every source, such as T5's `"translate English to German: "` or Marian's `">>deu<<
    "`."""
    prompt: str = PROMPT
    """causal: the prompt. `{source}` stands for the text, `{source_language}` and `{target_language}` for the English
    names of the languages."""
    use_chat_template: bool | None = None
    """causal: whether the prompt is wrapped in a turn of a chat. None does so if the tokenizer has a chat template."""
    num_beams: PositiveInt = 1
    """Number of beams when translating in evaluations and predict; 1 is greedy decoding."""
    max_new_tokens: PositiveInt = 128
    """Maximum length of a translation, in tokens."""
    dev_rows: PositiveInt | None = 200
    """How many dev rows, evenly spaced, an evaluation during training translates; None translates all. The dev loss,
    and the test at the end, always use all rows."""
    bleu_tokenizer: Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "auto"
    """How sacrebleu splits texts into words. `auto` is decided by target_language, or by the script of the targets: zh
    for Chinese; ja-mecab or ko-mecab for Japanese or Korean if MeCab is installed (`pip install 'sacrebleu[ja]'`),
    otherwise char; 13a for all others."""

    @field_validator("prompt")
    @classmethod
    def _prompt_has_a_source(cls, prompt: str) -> str:
        try:
            placeholders = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
        except ValueError as error:
            raise ValueError(f"unbalanced braces ({error})") from error
        unknown = sorted(set(placeholders) - {"source", "source_language", "target_language"})
        if unknown:
            raise ValueError(
                f"unknown placeholder {unknown[0]!r}; legal: {{source}}, {{source_language}}, {{target_language}}"
            )
        if placeholders.count("source") != 1:
            raise ValueError("must contain {source} exactly once")
        return prompt

    def metric_names(self) -> tuple[str, ...]:
        return ("bleu", "chrf", "exact_match", *CAUSAL_METRICS)
