"""Masking: as many tokens as predicted, never a special one, and always the same for the same draw."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shardtune.trainer.tasks.example import IGNORED
from shardtune.trainer.tasks.language_modeling.masking import Masking

PAD, UNK, CLS, SEP, MASK = range(5)
VOCABULARY = 50
OTHERS = range(5, VOCABULARY)
IDS = st.lists(st.one_of(st.sampled_from([UNK, MASK]), st.sampled_from(OTHERS)), max_size=40).map(
    lambda ids: [CLS, *ids, SEP]
)
DRAWS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))


def masking(probability: float = 0.15) -> Masking:
    return Masking(probability, MASK, np.arange(5), np.array(OTHERS))


def words_of(ids: list[int]) -> list[int]:
    """A word of three tokens, one of one, one of three, …; none of the special tokens at the ends."""
    return [-1, *(at // 4 * 2 + (at % 4 == 3) for at in range(len(ids) - 2)), -1]


@given(IDS, DRAWS, st.floats(0.01, 0.99), st.booleans())
def test_the_number_of_targets_is_as_predicted_and_none_is_a_special_token(
    ids: list[int], draw: tuple[int, int], probability: float, whole: bool
) -> None:
    masker = masking(probability)
    shown, labels = masker.hide(ids, words_of(ids) if whole else None, draw)
    plain = sum(token in OTHERS for token in ids)
    targets = [at for at, label in enumerate(labels) if label != IGNORED]
    assert len(targets) == masker.num_targets(ids) == (max(1, round(probability * plain)) if plain else 0)
    for at, token in enumerate(ids):
        if token not in OTHERS:
            assert shown[at] == token and labels[at] == IGNORED
        elif at in targets:
            assert labels[at] == token and (shown[at] == MASK or shown[at] in OTHERS)
        elif not whole:
            assert shown[at] == token


@given(IDS, DRAWS, st.floats(0.01, 0.99))
def test_a_word_is_hidden_whole_except_for_unchanged_tokens(
    ids: list[int], draw: tuple[int, int], probability: float
) -> None:
    words = words_of(ids)
    shown, labels = masking(probability).hide(ids, words, draw)
    learned = {word for word, label in zip(words, labels, strict=True) if label != IGNORED}
    changed = {word for word, old, new in zip(words, ids, shown, strict=True) if old != new}
    assert changed <= learned
    tokens = [
        [label for label, of_word, old in zip(labels, words, ids, strict=True) if of_word == word and old in OTHERS]
        for word in learned
    ]
    assert sum(IGNORED in labels_of_word for labels_of_word in tokens) <= 1, (
        "at most one word has more tokens than targets were left"
    )


def test_of_ten_targets_eight_are_masks_one_is_random_and_one_is_unchanged() -> None:
    ids = [CLS, *(5 + at % 45 for at in range(200)), SEP]
    fates: Counter[str] = Counter()
    hidden: Counter[int] = Counter()
    replaced: Counter[int] = Counter()
    for row in range(2000):
        shown, labels = masking().hide(ids, None, (7, row))
        for at, label in enumerate(labels):
            if label != IGNORED:
                hidden[at] += 1
                fates["mask" if shown[at] == MASK else "itself" if shown[at] == label else "other"] += 1
                if shown[at] not in (MASK, label):
                    replaced[shown[at]] += 1
    # 60,000 targets: the standard deviation of the fractions is 0.0016, that of the 300 hits of a position 16.
    assert fates.total() == 2000 * 30
    assert abs(fates["mask"] / 60_000 - 0.8) < 0.007
    assert abs(fates["other"] / 60_000 - 0.1 * 44 / 45) < 0.006
    assert set(hidden) == set(range(1, 201)) and min(hidden.values()) > 220 and max(hidden.values()) < 380
    assert set(replaced) == set(OTHERS)


@given(st.lists(st.sampled_from(OTHERS), min_size=30, max_size=40), DRAWS)
def test_the_same_draw_gives_the_same_mask_and_another_draw_another(ids: list[int], draw: tuple[int, int]) -> None:
    masker = masking(0.5)
    assert masker.hide(ids, None, draw) == masker.hide(list(ids), None, draw)
    others = [masker.hide(ids, None, (draw[0], (draw[1] + add) % 2**64)) for add in range(1, 4)]
    assert any(other != masker.hide(ids, None, draw) for other in others)


def test_masks_never_change() -> None:
    # Recorded from a run: an old run directory must keep its masks under a newer numpy.
    ids = [CLS, *range(10, 22), SEP]
    shown, labels = masking(0.3).hide(ids, None, (3, 14))
    assert shown == [CLS, 10, MASK, MASK, 13, 14, 15, 16, 17, MASK, 19, 20, MASK, SEP]
    assert {at: label for at, label in enumerate(labels) if label != IGNORED} == {2: 11, 3: 12, 9: 18, 12: 21}
    shown, labels = masking(0.3).hide(ids, words_of(ids), (3, 18))
    assert shown == [CLS, 10, 11, 12, 13, 43, MASK, MASK, 17, 18, 19, 20, MASK, SEP]
    assert {at: label for at, label in enumerate(labels) if label != IGNORED} == {5: 14, 6: 15, 7: 16, 12: 21}
