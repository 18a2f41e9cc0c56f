"""The rows that the check trains on: invented, the same for the same seed, and none of them downloaded."""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WORDS = tuple(
    f"{start}{end}" for start in ("ba", "de", "fi", "go", "ku", "la") for end in ("b", "d", "k", "m", "n", "s")
)
"""Words of a text, in which most follow from the one before."""
CUES = {"negative": "grim", "positive": "bright"}
"""Label -> the word that decides it."""
NAMES = {"PER": "anna", "LOC": "rome"}
"""Kind of an entity -> a word that is one."""
VOCABULARY = (*WORDS, *CUES.values(), *NAMES.values())
LONGEST = 40
"""Most words of a text."""

Row = dict[str, Any]


def text(chosen: random.Random, num_words: int) -> list[str]:
    """A text of so many words; four of five follow from the word before."""
    at, words = chosen.randrange(len(WORDS)), []
    for _ in range(num_words):
        words.append(WORDS[at])
        at = chosen.randrange(len(WORDS)) if chosen.random() < 0.2 else (5 * at + 1) % len(WORDS)
    return words


def _review(chosen: random.Random) -> Row:
    label = chosen.choice(list(CUES))
    words = text(chosen, chosen.randint(2, LONGEST))
    return {"text": " ".join([*words, CUES[label]]), "label": label}


def _sentence(chosen: random.Random) -> Row:
    words = text(chosen, chosen.randint(4, LONGEST))
    tags = ["O"] * len(words)
    for at in chosen.sample(range(len(words)), 2):
        kind = chosen.choice(list(NAMES))
        words[at], tags[at] = NAMES[kind], f"B-{kind}"
    return {"tokens": words, "tags": tags}


def _translation(chosen: random.Random) -> Row:
    words = text(chosen, chosen.randint(3, LONGEST // 2))
    return {"source": " ".join(words), "target": " ".join(reversed(words))}


def _conversation(chosen: random.Random) -> Row:
    question = text(chosen, chosen.randint(2, LONGEST // 4))
    return {
        "messages": [
            {"role": "user", "content": " ".join(question)},
            {"role": "assistant", "content": " ".join(reversed(question))},
        ]
    }


def _document(chosen: random.Random) -> Row:
    return {"text": " ".join(text(chosen, chosen.randint(2, LONGEST)))}


ROWS: dict[str, Callable[[random.Random], Row]] = {
    "classification": _review,
    "token_classification": _sentence,
    "translation": _translation,
    "chat": _conversation,
    "causal": _document,
    "masked": _document,
}


def write_rows(path: Path, task: str, num_rows: int) -> None:
    """Writes so many different rows for a task as JSONL."""
    chosen = random.Random(17)
    lines: dict[str, None] = {}
    while len(lines) < num_rows:
        lines[json.dumps(ROWS[task](chosen))] = None
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_sequences(path: Path, lengths: Sequence[Sequence[int]]) -> None:
    """Writes a document of each of these numbers of words, sequence by sequence."""
    chosen = random.Random(17)
    rows = [{"text": " ".join(text(chosen, length))} for sequence in lengths for length in sequence]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def cut_sequences(num_sequences: int, num_tokens: int) -> list[list[int]]:
    """Lengths of documents that fill sequences of num_tokens: a few in each, the shortest a sixteenth of it."""
    chosen = random.Random(17)
    shortest = max(1, num_tokens // 16)
    sequences = []
    for _ in range(num_sequences):
        ends = sorted(shortest * at for at in chosen.sample(range(1, num_tokens // shortest), 4))
        sequences.append([end - start for start, end in zip([0, *ends], [*ends, num_tokens], strict=True)])
    return sequences
