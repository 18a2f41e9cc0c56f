"""Scores of summed counts are the scores of the whole set, however it was cut; BLEU and chrF exactly sacrebleu's."""

from itertools import pairwise

import pytest
import sacrebleu
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shardtune.recipe.tasks.translation import TranslationOptions
from shardtune.trainer.tasks.languages import bleu_tokenizer, english_name, find_tag, letters_of
from shardtune.trainer.tasks.text_scores import (
    BLEU_TOKENIZERS,
    TextScores,
    rouge_l,
    rouge_l_counts,
    rouge_words,
)

WORDS = ["the", "film", "was", "quiet", "un", "calme", "静か", "电影", "很", "好。", "(it's", "3.5%", "—", ""]
PAIRS = st.lists(
    st.tuples(st.lists(st.sampled_from(WORDS), max_size=9), st.lists(st.sampled_from(WORDS), min_size=1, max_size=9)),
    min_size=1,
    max_size=12,
)


def summed(scores: TextScores, answers: list[str], references: list[str], cuts: list[int]) -> dict[str, Tensor]:
    """The counts of the pieces between the cuts, added up."""
    ends = sorted({0, len(answers), *(cut % (len(answers) + 1) for cut in cuts)})
    totals = scores.count([], [])
    for start, end in pairwise(ends):
        counts = scores.count(answers[start:end], references[start:end])
        assert counts.keys() == totals.keys()
        totals = {name: torch.cat([totals[name], counts[name]]) for name in totals}
    return added(totals)


def added(counts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The counts of all answers."""
    return {name: of_answers.sum(0) for name, of_answers in counts.items()}


@pytest.mark.parametrize("tokenizer", ["13a", "intl", "zh", "char", "none"])
@given(pairs=PAIRS, cuts=st.lists(st.integers(0, 12), max_size=4))
def test_summed_counts_give_sacrebleus_scores(
    tokenizer: str, pairs: list[tuple[list[str], list[str]]], cuts: list[int]
) -> None:
    answers, references = [" ".join(answer) for answer, _ in pairs], [" ".join(reference) for _, reference in pairs]
    scores = TextScores(tokenizer)
    metrics = scores.metrics(summed(scores, answers, references, cuts))
    bleu, chrf = sacrebleu.BLEU(tokenize=tokenizer), sacrebleu.CHRF()
    assert metrics["bleu"] == bleu.corpus_score(answers, [references]).score
    assert metrics["chrf"] == chrf.corpus_score(answers, [references]).score
    assert metrics["bleu_signature"] == str(bleu.get_signature())
    assert metrics["chrf_signature"] == str(chrf.get_signature())
    assert metrics["num_answers"] == len(pairs)
    assert metrics["exact_match"] == sum(
        a.strip() == r.strip() for a, r in zip(answers, references, strict=True)
    ) / len(pairs)


def test_averages_of_pieces_would_not_be_the_whole_sets_score() -> None:
    """The negative control of the test above."""
    answers, references = ["the film was quiet", "un film"], ["the film was quiet", "a calm film it was"]
    scores = TextScores("13a")
    apart = [scores.metrics(added(scores.count([a], [r])))["bleu"] for a, r in zip(answers, references, strict=True)]
    assert sum(apart) / 2 != pytest.approx(scores.metrics(added(scores.count(answers, references)))["bleu"], rel=0.05)


def test_no_answers_score_nothing() -> None:
    scores = TextScores("13a")
    metrics = scores.metrics(added(scores.count([], [])))
    assert [metrics[name] for name in ("bleu", "chrf", "exact_match", "num_answers")] == [0, 0, 0, 0]
    assert all(count.dtype == torch.int64 for count in scores.count(["a"], ["b"]).values())


@pytest.mark.parametrize(
    ("language", "texts", "chosen"),
    [
        ("fr", [], "13a"),
        ("zh", [], "zh"),
        ("zh-CN", [], "zh"),
        ("zho_Hans", [], "zh"),
        ("Chinese", [], "zh"),
        ("ja", [], "char"),
        ("jpn_Jpan", [], "char"),
        ("ko_KR", [], "char"),
        ("fr", ["电影很好"], "13a"),
        (None, ["Un film calme.", "电影"], "13a"),
        (None, ["这部电影很好看。", "OK"], "zh"),
        (None, ["この映画はとても静かです。"], "char"),
        (None, ["영화가 좋아요"], "char"),
        (None, ["42 + 1"], "13a"),
        (None, [], "13a"),
    ],
)
def test_bleu_splits_words_by_the_target_language(
    language: str | None, texts: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert bleu_tokenizer(language, [letters_of(texts)]) == chosen


@pytest.mark.parametrize(("language", "chosen"), [("ja", "ja-mecab"), ("ko", "ko-mecab"), (None, "ja-mecab")])
def test_mecab_is_used_where_it_is_installed(
    language: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert bleu_tokenizer(language, [letters_of(["静かな映画"])]) == chosen


def test_a_chinese_answer_of_other_words_is_not_scored_as_one_long_word() -> None:
    answer, reference = ["这部电影非常好看。"], ["这部电影很好看。"]
    by_language, by_spaces = (
        TextScores(name).metrics(added(TextScores(name).count(answer, reference))) for name in ("zh", "13a")
    )
    assert by_language["bleu"] > 40 > by_spaces["bleu"]


def test_a_recipe_may_name_every_tokenizer_that_downloads_nothing() -> None:
    for name in ("auto", *BLEU_TOKENIZERS):
        TranslationOptions(kind="translation", bleu_tokenizer=name)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("language", "tags", "found"),
    [
        ("en", ["en", "en-US", "EN"], ["en"]),
        ("en", ["EN", "en-US", "fr"], ["EN"]),
        ("en", ["en-US", "fr-FR"], ["en-US"]),
        ("en", ["en-US", "en-GB"], ["en-US", "en-GB"]),
        ("en-us", ["en_US", "en_GB"], ["en_US"]),
        ("fr", ["fr_XX", "frp_XX"], ["fr_XX"]),
        ("de", ["en", "fr"], []),
    ],
)
def test_a_language_is_found_by_its_tag_then_by_its_spelling_then_by_its_region(
    language: str, tags: list[str], found: list[str]
) -> None:
    assert find_tag(language, tags) == found


@pytest.mark.parametrize(
    ("tag", "name"), [("en", "English"), ("zh-CN", "Chinese"), ("PT_br", "Portuguese"), ("Klingon", "Klingon")]
)
def test_prompts_call_a_language_by_its_english_name(tag: str, name: str) -> None:
    assert english_name(tag) == name


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
    assert rouge_l(added(rouge_l_counts([answer], [reference]))) == pytest.approx(expected)


def test_rouge_counts_of_parts_add_up_and_those_of_nothing_are_zero() -> None:
    answers = ["police kill the gunman", "", "a b c d"]
    references = ["police killed the gunman", "no", "d c b a"]
    parts = [
        added(rouge_l_counts(answers[start:end], references[start:end])) for start, end in ((0, 1), (1, 1), (1, 3))
    ]
    total = {name: parts[0][name] + parts[1][name] + parts[2][name] for name in parts[0]}
    whole = rouge_l(added(rouge_l_counts(answers, references)))
    assert rouge_l(total) == pytest.approx(whole) == pytest.approx((3 / 4 + 1 / 4) / 3)
    assert rouge_l(parts[1]) == 0


def test_rouge_splits_chinese_and_japanese_into_characters() -> None:
    assert rouge_words("Ich bin GPT-4, 今日は。don't_x") == [
        "ich",
        "bin",
        "gpt",
        "4",
        "今",
        "日",
        "は",
        "don",
        "t",
        "x",
    ]
    assert rouge_words("한국어 é") == ["한국어", "é"]
