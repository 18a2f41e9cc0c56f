"""Both sides are scored by the same counts, which scikit-learn, seqeval and scipy confirm."""

import numpy as np
import pytest
from scipy.stats import pearsonr
from seqeval.metrics import f1_score

from benchmarks.quality.cases import CASES, sentences
from benchmarks.quality.peer import _first_pieces
from benchmarks.quality.scoring import answers_of, entities_of, gold_of, mean_of, scorer_of

REVIEWS, ENTITIES, RATINGS = CASES
TAGS = [["B-PER", "I-PER", "O", "B-LOC"], ["O", "B-ORG"], ["O"]]
FOUND = [["B-PER", "O", "O", "B-LOC"], ["B-ORG", "I-ORG"], ["B-LOC"]]


def test_accuracy_counts_each_row_as_often_as_it_is_drawn() -> None:
    score = scorer_of(REVIEWS, ["a", "b", "a"], ["a", "a", "a"])
    assert score(np.array([1, 1, 1])) == pytest.approx(2 / 3)
    assert score(np.array([0, 3, 0])) == 0.0


def test_entities_are_scored_as_seqeval_does() -> None:
    gold = gold_of(ENTITIES, [{"tags": tags} for tags in TAGS])
    score = scorer_of(ENTITIES, gold, [entities_of(tags) for tags in FOUND])
    assert score(np.array([1, 1, 1])) == pytest.approx(f1_score(TAGS, FOUND))
    assert score(np.array([2, 0, 1])) == pytest.approx(f1_score([*TAGS[:1] * 2, TAGS[2]], [*FOUND[:1] * 2, FOUND[2]]))


def test_numbers_are_scored_as_scipy_does() -> None:
    gold, answers = [1.0, -2.0, 0.5, 3.0], [0.8, -1.0, 1.0, 2.0]
    score = scorer_of(RATINGS, gold, answers)
    assert score(np.array([1, 1, 1, 1])) == pytest.approx(pearsonr(gold, answers).statistic)
    twice = [0, 0, 1, 3]
    expected = pearsonr(np.array(gold)[twice], np.array(answers)[twice]).statistic
    assert score(np.array([2, 1, 0, 1])) == pytest.approx(expected)
    assert scorer_of(RATINGS, gold, [1.0] * 4)(np.ones(4, dtype=np.int64)) == 0.0


def test_the_spans_of_a_prediction_become_words() -> None:
    spans = [{"type": "PER", "start": 0, "end": 11}, {"type": "LOC", "start": 15, "end": 20}]
    row = {"tokens": ["Marie", "Curie", "in", "Paris"], "prediction": {"spans": spans}}
    assert answers_of(ENTITIES, [row]) == [[["PER", 0, 2], ["LOC", 3, 4]]]
    assert answers_of(REVIEWS, [{"text": "x", "prediction": {"label": "a", "score": 1.0}}]) == ["a"]


def test_a_missing_answer_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 answers for 3 rows"):
        scorer_of(REVIEWS, ["a", "b", "a"], ["a", "a"])


def test_the_mean_over_seeds_is_that_of_the_metrics() -> None:
    score = mean_of([scorer_of(REVIEWS, ["a", "b"], answers) for answers in (["a", "b"], ["b", "b"])])
    assert score(np.array([1, 1])) == pytest.approx(0.75)


def test_the_peer_learns_a_word_at_its_first_piece() -> None:
    assert _first_pieces([None, 0, 0, 1, None], [7, 8]) == [-100, 7, -100, 8, -100]


def test_conll_blocks_are_rows() -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\nPeter NNP B-NP B-PER\n"
    assert sentences(text) == [
        {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]},
        {"tokens": ["Peter"], "tags": ["B-PER"]},
    ]
