"""Text for the benchmarks: passages of LibreOffice's help, labelled with the program that each is about.

Their lengths vary as much as those of articles: one to twelve paragraphs of one page. They depend on the pages only.
"""

import hashlib
import json
import random
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from demo.fetch import CACHE
from demo.help_texts import fetch_packages, read_help

PROGRAMS = ("sbasic", "scalc", "schart", "sdatabase", "sdraw", "shared", "simpress", "smath", "swriter")
MAX_PARAGRAPHS = 12


def passages(texts: dict[tuple[str, str], str]) -> dict[str, list[dict[str, str]]]:
    """Split -> rows of text and label; all passages of a page are in one split. `texts` is what read_help returns."""
    pages: dict[str, list[str]] = defaultdict(list)
    for (page, _), text in texts.items():
        pages[page].append(text)
    splits: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for page, paragraphs in sorted(pages.items()):
        program = next((part for part in Path(page).parts if part in PROGRAMS), None)
        if program is None:
            continue
        draw = random.Random(hashlib.sha256(page.encode()).digest())
        split = "test" if draw.random() < 0.1 else "train"
        at = 0
        while at < len(paragraphs):
            count = draw.randint(1, MAX_PARAGRAPHS)
            text = " ".join(paragraphs[at : at + count])
            splits[split].append({"text": text, "label": program})
            at += count
    for rows in splits.values():
        random.Random(0).shuffle(rows)
    return splits


def write(folder: Path, *, num_rows: int | None = None, cache: Path = CACHE) -> None:
    """Writes train.jsonl, with at most num_rows rows, and test.jsonl."""
    archive = fetch_packages(cache / "packages")["en"]
    with TemporaryDirectory(prefix="help-") as temporary:
        splits = passages(read_help(archive, Path(temporary), "en"))
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = (json.dumps(row) + "\n" for row in (rows[:num_rows] if split == "train" else rows))
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
