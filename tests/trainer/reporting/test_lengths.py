"""The histogram of lengths."""

import numpy as np

from shardtune.trainer.reporting.lengths import length_histogram


def test_every_example_is_in_one_bin() -> None:
    lengths = np.array([3, 3, 4, 90, 512], dtype=np.int32)
    found = length_histogram(lengths)
    assert sum(found["counts"]) == 5
    assert len(found["edges"]) == len(found["counts"]) + 1 <= 32
    assert found["edges"][0] == 3 and found["edges"][-1] > 512
    assert length_histogram(np.array([7], dtype=np.int32)) == {"edges": [7, 8], "counts": [1]}
    assert length_histogram(np.array([], dtype=np.int32)) == {"edges": [], "counts": []}
