"""How a text that was generated compares with the one in the data: ROUGE-L and BLEU, as counts that add up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from sacrebleu.metrics.bleu import BLEU
    from torch import Tensor

HAN = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Characters of Chinese and Japanese, which are written without spaces."""
WORD = re.compile(rf"[{HAN}]|[^\W_{HAN}]+")


class ReferenceMetric(Protocol):
    """One metric of generated texts against one reference each."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        """`is_han` among the facts says that most references hold Chinese or Japanese."""

    def score(self, said: Sequence[str], references: Sequence[str]) -> Tensor:
        """Counts that add up, a vector; of no texts, zeros of the same shape."""

    def value(self, counts: Tensor) -> float:
        """The metric of the summed counts."""


class RougeL:
    """The mean F1 of the longest common subsequence of words (Lin, "ROUGE", 2004, with beta = 1); 0 to 1."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        pass

    def score(self, said: Sequence[str], references: Sequence[str]) -> Tensor:
        import torch
        from rapidfuzz.distance import LCSseq

        total = 0.0
        for one, other in zip(said, references, strict=True):
            words, wanted = words_of(one), words_of(other)
            total += 2 * LCSseq.similarity(words, wanted) / max(1, len(words) + len(wanted))
        return torch.tensor([total, len(said)], dtype=torch.float64)

    def value(self, counts: Tensor) -> float:
        total, number = counts.tolist()
        return float(total / max(1.0, number))


class Bleu:
    """sacrebleu's corpus BLEU, 0 to 100, with its tokenizer `13a`, or `zh` where most references need that."""

    def __init__(self, facts: Mapping[str, Any]) -> None:
        self._tokenizer = "zh" if facts["is_han"] else "13a"

    @cached_property
    def _bleu(self) -> BLEU:
        from sacrebleu.metrics.bleu import BLEU

        return BLEU(tokenize=self._tokenizer)

    def score(self, said: Sequence[str], references: Sequence[str]) -> Tensor:
        import torch

        size = 2 + 2 * self._bleu.max_ngram_order
        rows = self._bleu._extract_corpus_statistics(list(said), [list(references)]) if said else []
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, size).sum(0)

    def value(self, counts: Tensor) -> float:
        return float(self._bleu._compute_score_from_stats(counts.tolist()).score)


REFERENCE_METRICS: dict[str, type[ReferenceMetric]] = {"rouge_l": RougeL, "bleu": Bleu}


def words_of(text: str) -> list[str]:
    """Lowercased words, and single characters of Chinese and Japanese."""
    return WORD.findall(text.lower())


def has_han(text: str) -> bool:
    """Whether there is a character of Chinese or Japanese in it."""
    return re.search(f"[{HAN}]", text) is not None
