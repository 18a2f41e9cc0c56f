"""How like its reference a generated text is: BLEU, chrF and exact match, as counts that add up over batches and ranks.

sacrebleu counts and computes; here its counts are summed in between, so that the scores are those of the whole set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


BLEU_TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none")
"""Those of sacrebleu that fetch nothing."""


class TextScores:
    """BLEU with the named tokenizer of sacrebleu, chrF2, and the part of the answers that are the reference."""

    def __init__(self, bleu_tokenizer: str) -> None:
        self._bleu_tokenizer = bleu_tokenizer

    def count(self, answers: Sequence[str], references: Sequence[str]) -> dict[str, Tensor]:
        """The counts of these answers, one reference each; int64, of the same names and shapes for any number."""
        import torch

        assert len(answers) == len(references), "a reference for each answer"
        counts = {}
        for name, metric in self._metrics.items():
            width = 2 + 2 * metric.max_ngram_order if name == "bleu" else 3 * metric.order
            stats = metric._extract_corpus_statistics(answers, [references]) if answers else []
            counts[f"{name}_stats"] = torch.tensor(stats or [[0] * width], dtype=torch.int64).sum(0)
        pairs = zip(answers, references, strict=True)
        counts["num_exact"] = torch.tensor(sum(answer.strip() == reference.strip() for answer, reference in pairs))
        counts["num_answers"] = torch.tensor(len(answers))
        return counts

    def metrics(self, totals: Mapping[str, Tensor]) -> dict[str, Any]:
        """The scores of summed counts, and sacrebleu's signatures, by which they can be compared."""
        scores: dict[str, Any] = {}
        for name, metric in self._metrics.items():
            scores[name] = float(metric._compute_score_from_stats(totals[f"{name}_stats"].tolist()).score)
            metric.num_refs = 1  # what its signature says, before anything has been scored
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

        # `force` only keeps it from warning of answers that look tokenized.
        return {"bleu": BLEU(tokenize=self._bleu_tokenizer, force=True), "chrf": CHRF()}
