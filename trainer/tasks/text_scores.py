"""How similar a generated text is to its reference: BLEU, chrF, exact match and ROUGE-L, as counts that add up.

Counts are summed over answers and ranks before any score is computed, so that the scores are those of the whole set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


BLEU_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none")
"""The tokenizers of sacrebleu that download nothing."""

UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Characters of Chinese and Japanese, which are written without spaces."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")


class TextScores:
    """BLEU with the given tokenizer of sacrebleu, chrF2, and the fraction of answers that equal their reference."""

    def __init__(self, bleu_tokenizer: str) -> None:
        self._bleu_tokenizer = bleu_tokenizer

    def count(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        """The counts of each of these answers, one reference each; int64 of shape (answers, …)."""
        import torch

        assert len(answers) == len(references), "a reference for each answer"
        counts = {}
        for name, metric in self._metrics.items():
            width = 2 + 2 * metric.max_ngram_order if name == "bleu" else 3 * metric.order
            stats = metric._extract_corpus_statistics(answers, [references]) if answers else []
            counts[f"{name}_stats"] = torch.tensor(stats, dtype=torch.int64).view(-1, width)
        pairs = zip(answers, references, strict=True)
        exact = [int(answer.strip() == reference.strip()) for answer, reference in pairs]
        counts["num_exact"] = torch.tensor(exact, dtype=torch.int64)
        counts["num_answers"] = torch.ones(len(answers), dtype=torch.int64)
        return counts

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The scores of summed counts, and sacrebleu's signatures, which make them comparable."""
        scores: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            scores[name] = float(metric._compute_score_from_stats(totals[f"{name}_stats"].tolist()).score)
            metric.num_refs = 1  # its signature needs this before anything has been scored
            scores[f"{name}_signature"] = str(metric.get_signature())
        num_answers = int(totals["num_answers"])
        return {
            "bleu": scores["bleu"],
            "chrf": scores["chrf"],
            "exact_match": int(totals["num_exact"]) / max(1, num_answers),
            "num_answers": num_answers,
            "bleu_signature": scores["bleu_signature"],
            "chrf_signature": scores["chrf_signature"],
        }

    @cached_property
    def _metrics(self) -> dict[str, Any]:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        # `force` only suppresses the warning about answers that look tokenized.
        return {"bleu": BLEU(tokenize=self._bleu_tokenizer, force=True), "chrf": CHRF()}


def rouge_l_counts(answers: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
    """The F1 of the longest common subsequence of words of each answer, and a 1 for each; shape (answers,).

    ROUGE-L measures how much of a text occurs in another, in the same order (Lin, "ROUGE", 2004, section 3.1, with
    beta = 1).
    """
    import torch
    from rapidfuzz.distance import LCSseq

    f1 = []
    for answer, reference in zip(answers, references, strict=True):
        answered, expected = rouge_words(answer), rouge_words(reference)
        f1.append(2 * LCSseq.similarity(answered, expected) / max(1, len(answered) + len(expected)))
    return {
        "rouge_l_sum": torch.tensor(f1, dtype=torch.float64),
        "rouge_l_answers": torch.ones(len(answers), dtype=torch.int64),
    }


def rouge_l(totals: Mapping[str, Tensor]) -> float:
    """The mean F1 of summed counts, from 0 to 1."""
    return float(totals["rouge_l_sum"]) / max(1, int(totals["rouge_l_answers"]))


def rouge_words(text: str) -> list[str]:
    """The lowercased words of a text, and single characters of Chinese and Japanese."""
    return WORD.findall(text.lower())
