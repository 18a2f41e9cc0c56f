"""Which generated texts are no rows."""

import pytest

from shardtune.trainer.commands.sampling.degenerate import Written, is_loop

PROSE = [number * number % 97 for number in range(60)]


@pytest.mark.parametrize(
    ("ids", "fault", "of_a_reply"),
    [
        ([1, 2, 9, 0, 0], None, None),
        ([9, 0, 0, 0, 0], "empty", "empty"),
        ([1, 2, 3, 4, 5], None, "unfinished"),
        ([1, 8, 3, 9, 0], "with special tokens", "with special tokens"),
        ([*[5, 6, 7] * 20, 9], "looping", "looping"),
        ([*PROSE, 9], None, None),
    ],
)
def test_a_text_is_judged_by_its_tokens(ids: list[int], fault: str | None, of_a_reply: str | None) -> None:
    written = Written.of(ids, [9])
    assert written.fault({8, 9}, must_end=False) == fault
    assert written.fault({8, 9}, must_end=True) == of_a_reply


def test_short_texts_may_repeat_themselves() -> None:
    assert not is_loop([1, 1] * 10)
    assert is_loop([1, 1] * 20)
    assert not is_loop(PROSE)
