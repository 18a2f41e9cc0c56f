"""Confident learning is computed as it is defined."""

import numpy as np
import pytest

from shardtune.trainer.evaluation.suspects.confident import Judged, suggested, thresholds


def judged(given: list[int], probabilities: list[list[float]], questions: list[int] | None = None) -> Judged:
    zeros = np.zeros(len(given), dtype=np.int64)
    return Judged(
        examples=np.arange(len(given)),
        positions=zeros,
        questions=zeros if questions is None else np.array(questions),
        given=np.array(given),
        probabilities=np.array(probabilities, dtype=np.float32),
    )


def test_a_threshold_is_the_mean_probability_of_a_class_where_it_is_the_label() -> None:
    found = thresholds(judged([0, 0, 1, 1], [[0.9, 0.1, 0], [0.5, 0.5, 0], [0.2, 0.8, 0], [0.6, 0.4, 0]]))
    assert found[0].tolist() == pytest.approx([0.7, 0.6, np.inf])


def test_a_label_is_suspected_if_another_class_reaches_its_own_threshold() -> None:
    # The model is rarely sure of class 1: 0.55 is much for it. Of class 0 it usually is: 0.6 is little.
    labels = [0, 0, 0, 1, 1, 0, 1]
    of_one = [0.05, 0.05, 0.05, 0.55, 0.55, 0.56, 0.4]
    found = suggested(judged(labels, [[1 - p, p] for p in of_one]))
    assert found.tolist() == [0, 0, 0, 1, 1, 1, 1]


def by_definition(of: Judged) -> list[int]:
    """Label by label, as in the paper, and only where the model predicts another class."""
    num_classes = of.probabilities.shape[1]
    found = []
    for question, given, own in zip(of.questions, of.given, of.probabilities, strict=True):
        candidates = []
        for other in range(num_classes):
            where = [
                p[other]
                for q, g, p in zip(of.questions, of.given, of.probabilities, strict=True)
                if (q, g) == (question, other)
            ]
            if where and own[other] >= sum(where) / len(where) - 1e-6:
                candidates.append((own[other], other))
        found.append(int(max(candidates)[1]) if candidates and own.argmax() != given else int(given))
    return found


def test_suggestions_are_those_of_the_definition_for_many_classes_and_several_questions() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(300, 4))
    given = np.where(generator.random(300) < 0.7, logits.argmax(1), generator.integers(0, 4, 300))
    probabilities = np.exp(2 * logits) / np.exp(2 * logits).sum(1, keepdims=True)
    of = judged(given.tolist(), probabilities.tolist(), generator.integers(0, 3, 300).tolist())
    found = suggested(of).tolist()
    assert found == by_definition(of)
    assert 20 < sum(a != b for a, b in zip(found, given, strict=True)) < 100
