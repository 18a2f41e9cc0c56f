"""The parallel text of recipes/translation.yaml: LibreOffice's help, English-French and English-Chinese, by paragraph.

Debian and Ubuntu have a package for each language (MPL-2.0), whose pages have the same names and whose paragraphs
have the same ids. They are fetched with apt-get for the release of this machine; their version is written beside the
rows.
"""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.apt import download, unpack
from demo.fetch import CACHE, FetchError
from demo.sentiment import write_unless_same
from demo.splits import split_of

PACKAGES = {"en": "libreoffice-help-en-us", "fr": "libreoffice-help-fr", "zh": "libreoffice-help-zh-cn"}
FOLDERS = {"en": "en-US", "fr": "fr", "zh": "zh-CN"}
"""The names of the languages inside the packages."""
HELP = "usr/share/libreoffice/help"

SPLITS = {"test": 0.02, "dev": 0.015}
"""Split -> its fraction of the pages; the others are for training."""
WORDS = range(5, 41)
"""The allowed numbers of words in an English text."""
MAX_RATIO = {"fr": 2.5, "zh": 1.5}
"""From this number of characters per English character on, a text is more than a translation."""

README = """\
Written by `python -m demo.help_texts`; it may be deleted at any time.

Paragraphs of LibreOffice's help, MPL-2.0 (The Document Foundation), from the packages
{packages}
Skipped: code, texts of fewer than {fewest} or more than {most} English words, untranslated texts, duplicates, and texts
with two words that no space separates. All paragraphs of a page are in the same split.
"""


@dataclass(frozen=True)
class Pair:
    """An English paragraph and its translation."""

    page: str
    english: str
    translation: str

    @property
    def split(self) -> str:
        """The split of the page, which depends on its name only."""
        return split_of(self.page, SPLITS)


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes the rows of both language pairs; returns a summary to print."""
    archives = fetch_packages(cache / "packages")
    folder = cache / "demo" / "help_texts"
    folder.mkdir(parents=True, exist_ok=True)
    readme = README.format(packages="\n".join(path.name for path in archives.values()), fewest=WORDS[0], most=WORDS[-1])
    written = folder / "README.txt"
    if not written.is_file() or written.read_text(encoding="utf-8") != readme:
        with TemporaryDirectory(dir=folder, prefix=".unpack-") as temporary:
            texts = {language: read_help(path, Path(temporary), language) for language, path in archives.items()}
        for language in ("fr", "zh"):
            write_splits(pairs(texts["en"], texts[language], language), language, folder / f"en-{language}")
        write_unless_same(written, readme)
    lines = []
    for path in sorted(folder.glob("*/*.jsonl")):
        with path.open("rb") as rows:
            lines.append(f"{os.path.relpath(path)}: {sum(1 for _ in rows):,} rows")
    return "\n".join(lines)


def fetch_packages(folder: Path) -> dict[str, Path]:
    """The .deb file of each language. Uses no network if they are in the folder.

    Raises FetchError if this machine has no apt-get, or if apt-get cannot fetch them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (archives := _archives(folder)):
            download([*PACKAGES.values()], folder, size="8 MB")
            archives = _archives(folder)
    if not archives:
        raise FetchError(f"the packages in {folder} have different versions; delete them and run again to fetch them")
    return archives


def _archives(folder: Path) -> dict[str, Path]:
    """The package of each language, all of the last common version by name; empty if they have none in common."""
    versions = [
        {path.name.removeprefix(package): path for path in folder.glob(f"{package}_*.deb")}
        for package in PACKAGES.values()
    ]
    common = set.intersection(*(set(by_version) for by_version in versions))
    if not common:
        return {}
    return {language: by_version[max(common)] for language, by_version in zip(PACKAGES, versions, strict=True)}


def read_help(archive: Path, folder: Path, language: str) -> dict[tuple[str, str], str]:
    """(page, id) -> the text of each paragraph in a package."""
    target = folder / language
    failed = unpack(archive, target)
    root = target / HELP / FOLDERS[language]
    pages = sorted((root / "text").rglob("*.html"))
    if failed or not pages:
        reason = failed or f"it has no {HELP}/{FOLDERS[language]}"
        raise FetchError(f"{archive} cannot be read ({reason}); delete it and run again to fetch it")
    return {
        (str(page.relative_to(root)), name): text
        for page in pages
        for name, text in paragraphs(page.read_text(encoding="utf-8")).items()
    }


def paragraphs(html: str) -> dict[str, str]:
    """Id -> text of the usable paragraphs of a page: no code, no duplicate id, no words that run together."""
    parser = _Paragraphs()
    parser.feed(html)
    parser.close()
    return {name: text for name, text in parser.texts.items() if text}


class _Paragraphs(HTMLParser):
    """Collects paragraphs and headings; an empty text marks an unusable one."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._id, self._tag, self._is_usable = "", "", True
        self._text = ""
        self._at_edge = False
        """Whether a tag was just read: the pages write `CommandCtrl` where the screen shows one or the other."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._tag:
            self._at_edge = True
            self._text += " " if tag == "br" else ""
            return
        attributes = dict(attrs)
        name = attributes.get("id") or ""
        if re.fullmatch(r"p|h[1-6]", tag) and name.startswith(("par_id", "hd_id")):
            kind = attributes.get("class") or ""
            self._id, self._tag, self._text, self._at_edge = name, tag, "", False
            self._is_usable = name not in self.texts and not re.search(r"code|image", kind)

    def handle_endtag(self, tag: str) -> None:
        if tag != self._tag:
            self._at_edge = True
            return
        self.texts[self._id] = " ".join(self._text.split()) if self._is_usable else ""
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if not self._tag or not data:
            return
        if self._at_edge and _is_latin(self._text[-1:]) and _is_latin(data[:1]):
            self._is_usable = False
        self._at_edge = False
        self._text += data


def _is_latin(character: str) -> bool:
    return character.isalnum() and character < "\u2000"


def pairs(
    english: Mapping[tuple[str, str], str], other: Mapping[tuple[str, str], str], language: str
) -> Iterator[Pair]:
    """Texts with their translations, each English text once, in the order of the pages."""
    seen = set()
    for (page, name), text in english.items():
        translation = other.get((page, name), "")
        key = text.casefold()
        if key not in seen and is_translation(text, translation, language):
            seen.add(key)
            yield Pair(page, text, translation)


def is_translation(english: str, translation: str, language: str) -> bool:
    """Whether the two look like a text and its translation."""
    if len(english.split()) not in WORDS or not translation:
        return False
    letters = [character for character in english if character.isalpha()]
    if 2 * len(letters) < len(english) or translation.casefold() == english.casefold():
        return False
    if language == "zh":
        # Much of the Chinese help is still in English.
        chinese = sum("\u4e00" <= character <= "\u9fff" for character in translation)
        if 5 * chinese < len(translation):
            return False
    return 1 / 5 < len(translation) / len(english) < MAX_RATIO[language]


def write_splits(rows: Iterable[Pair], language: str, folder: Path) -> None:
    """Writes train.jsonl, dev.jsonl and test.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, list[str]] = {"train": [], **{split: [] for split in SPLITS}}
    for pair in rows:
        row = {"translation": {"en": pair.english, language: pair.translation}, "page": pair.page}
        splits[pair.split].append(json.dumps(row, ensure_ascii=False) + "\n")
    for split, lines in splits.items():
        write_unless_same(folder / f"{split}.jsonl", "".join(lines))


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.help_texts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
