"""ROUGE-L and BLEU of many texts are the formula of sums, so that it does not matter which rank compared which."""

from typing import Any

import pytest
import sacrebleu

from trainer.tasks.references import Bleu, RougeL, has_han, words_of

SAID = ["The cat sat on the mat today.", "", "police kill the gunman", "a b c d e f"]
REFERENCES = ["The cat is sitting on the mat today.", "No.", "police killed the gunman", "f e d c b a"]
ZH = ["今天天气很好，我们去公园。", "他不在家"], ["今天天气不错，我们去公园吧。", "他在家"]


@pytest.mark.parametrize(
    ("said", "reference", "expected"),
    [
        # Lin, 2004, section 3.1: the examples of ROUGE-L against ROUGE-2.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("A, b!", "a b", 1.0),
        ("", "a b", 0.0),
        ("", "", 0.0),
        ("他不在家。", "他在家", 6 / 7),
        ("GPT很好", "gpt 好", 4 / 5),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(said: str, reference: str, expected: float) -> None:
    rouge = RougeL({})
    assert rouge.value(rouge.score([said], [reference])) == pytest.approx(expected)


def test_bleu_is_sacrebleus() -> None:
    for facts, (said, references), tokenizer in (
        ({"is_han": False}, (SAID, REFERENCES), "13a"),
        ({"is_han": True}, ZH, "zh"),
    ):
        bleu = Bleu(facts)
        expected = sacrebleu.corpus_bleu(said, [references], tokenize=tokenizer).score
        assert bleu.value(bleu.score(said, references)) == pytest.approx(expected) and expected > 0


@pytest.mark.parametrize("metric", [RougeL({}), Bleu({"is_han": False})])
def test_the_counts_of_parts_add_up_and_of_nothing_they_are_zero(metric: Any) -> None:
    parts = [metric.score(SAID[a:b], REFERENCES[a:b]) for a, b in ((0, 1), (1, 1), (1, 4))]
    assert metric.value(sum(parts)) == pytest.approx(metric.value(metric.score(SAID, REFERENCES)))
    assert not parts[1].any() and metric.value(parts[1]) == 0


def test_chinese_and_japanese_are_cut_into_characters() -> None:
    assert words_of("Ich bin GPT-4, 今日は。don't_x") == ["ich", "bin", "gpt", "4", "今", "日", "は", "don", "t", "x"]
    assert has_han("ok 好") and has_han("カ") and not has_han("한국어 é")
