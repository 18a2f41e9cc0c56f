"""Rounded lengths: multiples, never beyond the limit; what is padded is no target, and changes nothing learned."""

import numpy as np
import pytest

from shardtune.trainer.tasks import causal
from shardtune.trainer.tasks.batch import padded_inputs
from shardtune.trainer.tasks.example import IGNORED, Example
from shardtune.trainer.tasks.padding import EXACT, Rounding, padded_length


def test_lengths_are_rounded_up_to_multiples_but_not_beyond_the_limit() -> None:
    rounding = Rounding(8, limit=20)
    lengths = [1, 8, 9, 16, 17, 20, 30]
    expected = [8, 8, 16, 16, 20, 20, 30]
    assert [rounding.up(length) for length in lengths] == expected
    assert rounding.up(np.array(lengths, dtype=np.int32)).tolist() == expected
    assert [EXACT.up(length) for length in lengths] == lengths


def test_batches_are_padded_to_rounded_lengths_only_where_it_is_asked_for() -> None:
    rows = [[1, 2, 3], [4]]
    with Rounding(4).applied():
        inputs = padded_inputs(rows, 9)
    assert inputs["input_ids"].tolist() == [[1, 2, 3, 9], [4, 9, 9, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert padded_inputs(rows, 9)["input_ids"].shape == (2, 3)
    with pytest.raises(ZeroDivisionError), Rounding(4).applied():
        raise ZeroDivisionError
    assert padded_length(3) == 3, "as before, also after an exception"


def test_the_padding_of_packed_rows_is_one_more_text_without_targets() -> None:
    example: Example = {"input_ids": [5, 6, 7], "labels": [6, 7, IGNORED], "position_ids": [0, 1, 0]}
    with Rounding(8).applied():
        batch = causal.collate([example | {"weights": [0.5, 1.0, 0.0]}], pad_id=0)
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 0, 0, 1, 2, 3, 4]]
    assert batch.labels.tolist() == [[6, 7, *[IGNORED] * 6]]
    assert batch.weights is not None and batch.weights[0, 3:].tolist() == [0.0] * 5
