"""Labels keep their names when models that know fewer of them judge a part of the rows."""

import numpy as np
import pytest

from shardtune.trainer.evaluation.suspects.listing import renamed
from tests.trainer.evaluation.suspects.test_confident import judged


def test_a_model_without_a_rare_label_gives_it_no_probability() -> None:
    found = renamed(judged([0, 1], [[0.9, 0.1], [0.3, 0.7]]), ["a", "c"], ["a", "b", "c"], has_several_labels=False)
    assert found.given.tolist() == [0, 2]
    assert found.probabilities.ravel().tolist() == pytest.approx([0.9, 0, 0.1, 0.3, 0, 0.7])


def test_several_labels_are_renamed_as_questions() -> None:
    found = renamed(
        judged([0, 1], [[0.9, 0.1], [0.3, 0.7]], [0, 1]), ["c", "a"], ["a", "b", "c"], has_several_labels=True
    )
    assert (found.questions.tolist(), found.given.tolist()) == ([2, 0], [0, 1])
    assert np.array_equal(found.probabilities, np.array([[0.9, 0.1], [0.3, 0.7]], dtype=np.float32))
