"""Laws of the ratings: no sentence is lost, and each is in the same split as in the sentiment demo."""

import json
from pathlib import Path

import pytest

from demo import rating, sentiment
from demo.fetch import CACHE

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[sentiment.Review]]:
    rating.prepare()
    return {split: read(CACHE / "demo" / "movie_ratings" / f"{split}.jsonl") for split in SPLITS}


def read(path: Path) -> list[sentiment.Review]:
    with path.open(encoding="utf-8") as lines:
        return [sentiment.Review(**json.loads(line)) for line in lines]


def test_every_sentence_has_a_rating_from_minus_four_to_four(
    splits: dict[str, list[sentiment.Review]],
) -> None:
    reviews = [review for split in splits.values() for review in split]
    assert len(reviews) == 10_605
    assert all(isinstance(review.label, float) and -4 <= review.label <= 4 for review in reviews)


def test_no_test_text_of_one_demo_trains_the_model_of_the_other(splits: dict[str, list[sentiment.Review]]) -> None:
    sentiment.prepare()
    for split in SPLITS:
        labelled = {review.key for review in read(CACHE / "demo" / "movie_reviews" / f"{split}.jsonl")}
        assert labelled <= {review.key for review in splits[split]}
    keys = [{review.key for review in split} for split in splits.values()]
    assert sum(map(len, keys)) == len(set.union(*keys))


def test_preparing_again_prints_the_same_summary(splits: dict[str, list[sentiment.Review]]) -> None:
    assert rating.prepare() == rating.prepare()
