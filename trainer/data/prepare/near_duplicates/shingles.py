"""A text as a set of shingles (Broder, 1997): its runs of three words, or of characters in scripts without spaces.

Case, punctuation and white space do not count. A shingle is a hash of 64 bits: no text has to be kept in memory.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

LENGTH = 3
"""Words in a shingle. One word changed in a text of n words changes 3 of its n - 2 shingles."""
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""The letters of Thai, Lao, Burmese, Khmer, Japanese and Chinese, each of which counts as a word."""
_ASCII_WORD = re.compile(r"\w+")
_WORD = re.compile(rf"[{UNSPACED}\U00020000-\U0003ffff]|(?:(?![{UNSPACED}\U00020000-\U0003ffff])\w)+")
_FACTORS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)
"""Odd numbers, one for each place in a shingle."""

Shingles = NDArray[np.uint64]


@dataclass(frozen=True)
class ShingleSets:
    """The shingles of some texts."""

    values: Shingles
    """Those of one text after another; within a text each once, in rising order."""
    sizes: NDArray[np.int64]
    """How many each text has, at least 1; shape (texts,)."""

    @classmethod
    def joined(cls, parts: "Sequence[ShingleSets]") -> "ShingleSets":
        """The shingles of some texts after those of others."""
        values = [np.empty(0, dtype=np.uint64), *(part.values for part in parts)]
        sizes = [np.empty(0, dtype=np.int64), *(part.sizes for part in parts)]
        return cls(np.concatenate(values), np.concatenate(sizes))

    @property
    def texts(self) -> NDArray[np.int64]:
        """The number of the text that each shingle is of; shape (shingles,)."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def text_of(value: Any) -> str:
    """All texts and numbers within a value, such as the columns of a row or the turns of a conversation."""
    return value if isinstance(value, str) else " ".join(_texts(value))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif value is not None:
        yield str(value)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; what is between spaces if it has no letters and digits."""
    if text.isascii():
        words = _ASCII_WORD.findall(text.lower())
    else:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return words or text.split()


def shingle_sets(texts: Sequence[str]) -> ShingleSets:
    """The shingles of each text; a text of fewer than LENGTH words is a single one."""
    by_text = [_at_least_one_shingle(words_of(text)) for text in texts]
    words = list(chain.from_iterable(by_text))
    hashes = {word: _hash(word) for word in {*words}}
    hashed = np.fromiter(map(hashes.__getitem__, words), dtype=np.uint64, count=len(words))
    lengths = np.array([len(words) for words in by_text], dtype=np.int64)
    ends = np.repeat(np.cumsum(lengths), lengths)
    begins = np.flatnonzero(np.arange(len(words)) + LENGTH <= ends)
    values = np.zeros(len(begins), dtype=np.uint64)
    for place, factor in enumerate(_FACTORS):
        values += hashed[begins + place] * np.uint64(factor)
    values ^= values >> np.uint64(32)
    return _distinct(values, np.repeat(np.arange(len(texts)), lengths)[begins], len(texts))


def _at_least_one_shingle(words: list[str]) -> list[str]:
    return words + [""] * (LENGTH - len(words))


def _hash(word: str) -> int:
    return xxhash.xxh3_64_intdigest(word.encode("utf-8", errors="surrogatepass"))


def _distinct(values: Shingles, texts: NDArray[np.int64], num_texts: int) -> ShingleSets:
    """The values of each text once, in rising order; `texts` has the number of the text of each value."""
    order = np.lexsort((values, texts))
    values, texts = values[order], texts[order]
    is_new = np.ones(len(values), dtype=bool)
    is_new[1:] = (values[1:] != values[:-1]) | (texts[1:] != texts[:-1])
    return ShingleSets(values[is_new], np.bincount(texts[is_new], minlength=num_texts))
