"""Every pair of near duplicates is found, and none that is not."""

import random

import numpy as np
import pytest

from shardtune.trainer.data.prepare.near_duplicates.index import NearIndex
from shardtune.trainer.data.prepare.near_duplicates.shingles import shingle_sets
from tests.trainer.data.prepare.near_duplicates.test_shingles import by_text


def texts(number: int, *, seed: int, of: int = 40) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(f"w{generator.randrange(400)}" for _ in range(of)) for _ in range(number)]


def edited(text: str, num_edits: int, generator: random.Random) -> str:
    words = text.split()
    for _ in range(num_edits):
        words[generator.randrange(len(words))] = f"new{generator.randrange(1000)}"
    return " ".join(words)


def found(indexed: list[str], passing: list[str]) -> dict[tuple[int, int], float]:
    return {
        (text, other): similarity
        for matches in NearIndex(shingle_sets(indexed)).matches(shingle_sets(passing))
        for text, other, similarity in zip(
            matches.texts.tolist(), matches.indexed.tolist(), matches.similarities.tolist(), strict=True
        )
    }


def by_definition(indexed: list[str], passing: list[str]) -> dict[tuple[int, int], float]:
    """All pairs with their Jaccard similarity, computed one by one."""
    sets, others = by_text(shingle_sets(indexed)), by_text(shingle_sets(passing))
    pairs = {(a, b): len(x & y) / len(x | y) for a, x in enumerate(others) for b, y in enumerate(sets)}
    return {pair: similarity for pair, similarity in pairs.items() if similarity >= 0.8}


@pytest.mark.parametrize("num_indexed", [1, 5, 60])
def test_the_pairs_are_those_of_the_definition_with_their_similarities(num_indexed: int) -> None:
    indexed, generator = texts(num_indexed, seed=1), random.Random(2)
    passing = [*texts(40, seed=3), *(edited(text, edits, generator) for text in indexed for edits in range(4))]
    expected = by_definition(indexed, passing)
    assert found(indexed, passing) == pytest.approx(expected)
    assert len(expected) >= 1.5 * num_indexed and any(similarity < 1 for similarity in expected.values())


def test_a_similarity_of_exactly_four_fifths_is_near_and_less_is_not() -> None:
    words = [f"w{number}" for number in range(12)]
    text = " ".join(words)  # 10 shingles
    assert found([text], [" ".join(words[:10])]) == {(0, 0): 0.8}
    assert found([text], [" ".join(words[:9])]) == {}


def test_the_template_that_most_rows_share_does_not_count() -> None:
    template = "Is the following review of a film positive or negative? Answer with one word, and nothing else. Review:"
    indexed = [f"{template} {text}" for text in texts(30, seed=4, of=8)]
    passing = [f"{template} {text}" for text in texts(30, seed=5, of=8)]
    assert found(indexed, [*passing, indexed[7].upper()]) == {(30, 7): 1.0}
    assert found(indexed[:3], passing) == {}


def test_an_empty_index_matches_nothing() -> None:
    assert found([], ["a b c"]) == found(["a b c"], []) == {}


def test_the_index_is_as_large_as_the_rows_that_it_holds_whatever_passes_by() -> None:
    index = NearIndex(shingle_sets(texts(50, seed=6)))
    held = {name: value.nbytes for name, value in vars(index).items() if isinstance(value, np.ndarray)}
    assert not any(len(matches.texts) for matches in index.matches(shingle_sets(texts(2000, seed=7))))
    assert {name: value.nbytes for name, value in vars(index).items() if isinstance(value, np.ndarray)} == held
    assert sum(held.values()) < 50 * 40 * 32  # at most 32 bytes for each of the shingles of a row
