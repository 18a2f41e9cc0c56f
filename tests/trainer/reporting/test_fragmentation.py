"""Pieces of memory that no tensor fits into are reported once, when a GPU is full of them."""

from shardtune.trainer.reporting.fragmentation import Fragmentation

GB = 10**9


def test_a_gpu_full_of_pieces_is_reported_once_with_its_rank() -> None:
    memory = Fragmentation(80 * GB)
    assert memory.alert([50 * GB, 60 * GB], [55 * GB, 79 * GB], [0, 1]) == (
        "up to 19.00 GB of the GPU of rank 1 are unused pieces between tensors, of 80.00 GB; rank 1 stopped its GPU "
        "1 times to gather them. Set PYTORCH_ALLOC_CONF=expandable_segments:True unless it is set, or a lower "
        "train.micro_batch_tokens"
    )
    assert memory.alert([50 * GB, 60 * GB], [55 * GB, 79 * GB], [0, 1]) is None


def test_a_reserve_that_is_used_or_that_leaves_room_is_no_fault() -> None:
    memory = Fragmentation(80 * GB)
    assert memory.alert([78 * GB], [79 * GB], [2]) is None
    assert memory.alert([10 * GB], [60 * GB], [0]) is None


def test_many_retries_are_a_fault_in_themselves() -> None:
    text = Fragmentation(80 * GB).alert([70 * GB, 70 * GB], [75 * GB, 71 * GB], [0, 40])
    assert text is not None and "rank 1 stopped its GPU 40 times" in text
