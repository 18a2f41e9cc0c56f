"""ROUGE-L: how much of a text is in another, in the same order (Lin, "ROUGE", 2004, section 3.1, with beta = 1)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of Chinese and Japanese, which are written without spaces."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


def words_of(text: str) -> list[str]:
    """Lowercased words, and single characters of Chinese and Japanese."""
    return WORD.findall(text.lower())


def count(answers: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
    """The F1 of the longest common subsequences of words, summed over the answers, and how many they are."""
    import torch
    from rapidfuzz.distance import LCSseq

    total = 0.0
    for answer, reference in zip(answers, references, strict=True):
        said, wanted = words_of(answer), words_of(reference)
        total += 2 * LCSseq.similarity(said, wanted) / max(1, len(said) + len(wanted))
    return {
        "rouge_l_sum": torch.tensor(total, dtype=torch.float64),
        "rouge_l_answers": torch.tensor(len(answers)),
    }


def rouge_l(totals: Mapping[str, Tensor]) -> float:
    """The mean F1, from 0 to 1."""
    return float(totals["rouge_l_sum"]) / max(1, int(totals["rouge_l_answers"]))
