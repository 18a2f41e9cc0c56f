"""Laws of the unlabelled texts: documents are complete, and no test text of one demo trains the model of another."""

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


def test_sentences_of_a_document_are_joined_and_html_entities_are_decoded() -> None:
    content = "1_1\t0.5\tFine &amp; good.\r\n1_2\t-1\t &lt;3 \r\n2\t0\tNo.\r\n"
    assert opinions.parse(content) == ["Fine & good. <3", "No."]


def test_no_text_is_lost(splits: dict[str, list[opinions.Opinion]]) -> None:
    counts = {
        source: sum(opinion.source == source for opinions_ in splits.values() for opinion in opinions_)
        for source in opinions.SOURCES
    }
    assert counts == {"movies": 10_605, "tweets": 4_200, "products": 300, "news": 498}
    assert all(opinion.text.strip() for opinions_ in splits.values() for opinion in opinions_)
    assert 0.75 < len(splits["train"]) / sum(map(len, splits.values())) < 0.85


def test_no_test_text_of_the_sentiment_demo_is_trained_on(splits: dict[str, list[opinions.Opinion]]) -> None:
    sentiment.prepare()
    learned = {sentiment.Review(opinion.text, "").key for opinion in splits["train"]}
    for split in ("dev", "test"):
        with (CACHE / "demo" / "movie_reviews" / f"{split}.jsonl").open(encoding="utf-8") as lines:
            tested = {sentiment.Review(**json.loads(line)).key for line in lines}
        assert tested and not tested & learned


def test_preparing_again_prints_the_same_summary() -> None:
    assert opinions.prepare() == opinions.prepare()
