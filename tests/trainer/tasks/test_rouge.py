"""ROUGE-L of many texts is a mean of sums, so that it does not matter which rank compared which."""

import pytest

from shardtune.trainer.tasks.rouge import count, rouge_l, words_of

ANSWERS = ["police kill the gunman", "", "a b c d"]
REFERENCES = ["police killed the gunman", "no", "d c b a"]


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # The examples of Lin, 2004, section 3.1.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        ("A, b!", "a b", 1.0),
        ("a b", "a x b y z", 4 / 7),
        ("", "a b", 0.0),
        ("", "", 0.0),
        ("他不在家。", "他在家", 6 / 7),
        ("GPT很好", "gpt 好", 4 / 5),
    ],
)
def test_rouge_l_is_the_f1_of_the_longest_common_subsequence(answer: str, reference: str, expected: float) -> None:
    assert rouge_l(count([answer], [reference])) == pytest.approx(expected)


def test_the_counts_of_parts_add_up_and_of_nothing_they_are_zero() -> None:
    parts = [count(ANSWERS[start:end], REFERENCES[start:end]) for start, end in ((0, 1), (1, 1), (1, 3))]
    summed = {name: parts[0][name] + parts[1][name] + parts[2][name] for name in parts[0]}
    assert rouge_l(summed) == pytest.approx(rouge_l(count(ANSWERS, REFERENCES))) == pytest.approx((3 / 4 + 1 / 4) / 3)
    assert rouge_l(parts[1]) == 0


def test_chinese_and_japanese_are_cut_into_characters() -> None:
    assert words_of("Ich bin GPT-4, 今日は。don't_x") == ["ich", "bin", "gpt", "4", "今", "日", "は", "don", "t", "x"]
    assert words_of("한국어 é") == ["한국어", "é"]
