"""Laws of the unlabelled texts: documents are whole, and none that a demo tests on is learned from in another."""

import json
from pathlib import Path

import pytest

from demo import opinions, sentiment
from demo.fetch import CACHE

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def splits() -> dict[str, list[opinions.Opinion]]:
    opinions.prepare()
    return {split: read(CACHE / "demo" / "opinions" / f"{split}.jsonl") for split in SPLITS}


def read(path: Path) -> list[opinions.Opinion]:
    with path.open(encoding="utf-8") as lines:
        return [opinions.Opinion(**json.loads(line)) for line in lines]


def test_sentences_of_a_document_are_put_together_and_characters_are_themselves() -> None:
    content = "1_1\t0.5\tFine &amp; good.\r\n1_2\t-1\t &lt;3 \r\n2\t0\tNo.\r\n"
    assert opinions.parse(content) == ["Fine & good. <3", "No."]


def test_every_text_is_there(splits: dict[str, list[opinions.Opinion]]) -> None:
    counts = {
        source: sum(its.source == source for opinions_ in splits.values() for its in opinions_)
        for source in opinions.SOURCES
    }
    assert counts == {"movies": 10_605, "tweets": 4_200, "products": 300, "news": 498}
    assert all(its.text.strip() for opinions_ in splits.values() for its in opinions_)
    assert 0.75 < len(splits["train"]) / sum(map(len, splits.values())) < 0.85


def test_no_text_that_the_sentiment_demo_tests_on_is_learned_from(splits: dict[str, list[opinions.Opinion]]) -> None:
    sentiment.prepare()
    learned = {sentiment.Review(its.text, "").key for its in splits["train"]}
    for split in ("dev", "test"):
        with (CACHE / "demo" / "movie_reviews" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            tested = {sentiment.Review(**json.loads(line)).key for line in lines}
        assert tested and not tested & learned


def test_preparing_again_says_the_same() -> None:
    assert opinions.prepare() == opinions.prepare()
