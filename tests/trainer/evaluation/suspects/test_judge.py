"""How the three kinds of heads become labels with probabilities."""

import numpy as np
import pytest
import torch

from shardtune.trainer.evaluation.suspects.judge import judged_labels
from shardtune.trainer.tasks.batch import Batch
from shardtune.trainer.tasks.example import IGNORED

NUMBERS = np.array([7, 3])


def batch(labels: list[object]) -> Batch:
    return Batch({"input_ids": torch.ones(2, 3, dtype=torch.int64)}, torch.tensor(labels))


def test_a_text_has_one_label_and_those_without_any_are_left_out() -> None:
    logits = torch.tensor([[0.0, 0.0, 2.0], [1.0, 0.0, 0.0]])
    found = judged_labels(logits, batch([IGNORED, 1]), NUMBERS)
    assert (found.examples.tolist(), found.given.tolist()) == ([3], [1])
    assert found.probabilities[0].tolist() == pytest.approx(logits[1].softmax(0).tolist())


def test_each_word_has_a_label_at_its_position() -> None:
    logits = torch.arange(12.0).view(2, 3, 2) ** 2 / 40
    found = judged_labels(logits, batch([[IGNORED, 1, 0], [IGNORED, IGNORED, 1]]), NUMBERS)
    assert (found.examples.tolist(), found.positions.tolist(), found.given.tolist()) == (
        [7, 7, 3],
        [1, 2, 2],
        [1, 0, 1],
    )
    expected = logits.softmax(-1)[[0, 0, 1], [1, 2, 2]]
    assert found.probabilities.ravel().tolist() == pytest.approx(expected.flatten().tolist())


def test_each_of_several_labels_is_a_question_of_its_own() -> None:
    logits = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, -1.0]])
    found = judged_labels(logits, batch([[1, 0, 1], [IGNORED, IGNORED, IGNORED]]), NUMBERS)
    assert (found.examples.tolist(), found.questions.tolist(), found.given.tolist()) == ([7] * 3, [0, 1, 2], [1, 0, 1])
    assert found.probabilities[:, 1].tolist() == pytest.approx(logits[0].sigmoid().tolist())
    assert found.probabilities.sum(1).tolist() == pytest.approx([1.0] * 3)
