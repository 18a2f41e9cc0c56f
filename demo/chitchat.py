"""The data of recipes/chat.yaml: conversations of two people about anything, and their splits.

Will Myers, Tyler Etchart and Nancy Fulda, "Conversational Scaffolding: An Analogy-based Approach to Response
Prioritization in Open-domain Dialogs", ICAART 2020 (MIT). The one who begins is the user, the other the assistant.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from demo import smollm2
from demo.fetch import CACHE, FetchError, fetch
from demo.sentiment import write_unless_same
from demo.splits import split_of

SOURCE = "chitchat_dataset/dataset.json"
MIN_TURNS = 4
"""3,150 of the 7,168 conversations have one turn, because nobody answered, and 775 have two or three."""
SPLITS = {"test": 0.06, "dev": 0.03, "train": 0.91}

README = """\
Written by `python -m demo.chitchat`; it may be deleted at any time.

Open-domain conversations of the Perception, Control and Cognition lab, Brigham Young University (Myers, Etchart and
Fulda, ICAART 2020); MIT, as packaged by chitchat-dataset 0.9.0 (PyPI). Only conversations of 4 turns or more. All lines
that a person writes before the other one answers are one message.
"""


def prepare(cache: Path = CACHE) -> str:
    """Fetches and writes everything that recipes/chat.yaml reads; returns a summary to print."""
    model, source = smollm2.prepare(cache), fetch("chitchat", cache=cache) / SOURCE
    folder = cache / "demo" / "chitchat"
    folder.mkdir(parents=True, exist_ok=True)
    conversations: Mapping[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    splits: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    for name, conversation in conversations.items():
        messages = messages_of(conversation["messages"])
        if len(messages) >= MIN_TURNS:
            row = {"id": name, "messages": messages}
            splits[split_of(name, SPLITS)].append(json.dumps(row, ensure_ascii=False) + "\n")
    for split, rows in splits.items():
        write_unless_same(folder / f"{split}.jsonl", "".join(rows))
    write_unless_same(folder / "README.txt", README)
    return "\n".join(
        [
            f"model: {os.path.relpath(model)}",
            *(
                f"{split + ':':6} {os.path.relpath(folder)}/{split}.jsonl, {len(rows):,} conversations"
                for split, rows in splits.items()
            ),
        ]
    )


def messages_of(turns: Sequence[Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """The turns as messages of two alternating speakers; empty lines and empty turns are skipped."""
    messages: list[dict[str, str]] = []
    speakers: list[str] = []
    for sender, text in ((line["sender"], line["text"].strip()) for turn in turns for line in turn):
        if not text:
            continue
        if speakers and speakers[-1] == sender:
            messages[-1]["content"] += f"\n{text}"
            continue
        speakers.append(sender)
        messages.append({"role": "user" if sender == speakers[0] else "assistant", "content": text})
    return messages


def main() -> int:
    try:
        print(prepare())
    except FetchError as error:
        print(f"demo.chitchat: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
