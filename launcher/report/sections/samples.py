"""What the model answered before training and now, for the same prompts."""

from collections.abc import Mapping
from typing import Any

from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import RunRecord

MOST_SAMPLES = 50
MOST_CHARACTERS = 4000
"""A longer text is cut: a report is no data set."""


def samples(record: RunRecord) -> list[Table]:
    """The answers of the newest evaluation of each split, beside those of the first one."""
    tables = []
    for split in dict.fromkeys(str(event["split"]) for event in record.evaluations):
        answered = [event for event in record.evaluations if event["split"] == split and _answers(event)]
        if not answered:
            continue
        newest, first = answered[-1], answered[0]
        earlier = _answers(first) if first is not newest and len(_answers(first)) == len(_answers(newest)) else None
        head = ["prompt", *([f"answer at step {first['step']:,}"] if earlier else []), "answer", "reference"]
        rows = [
            (
                _cut(shown.get("prompt")),
                *([_cut(earlier[number].get("answer"))] if earlier else []),
                _cut(shown.get("answer")),
                _cut(shown.get("reference")),
            )
            for number, shown in enumerate(_answers(newest)[:MOST_SAMPLES])
        ]
        tables.append(Table(f"Answers on {split}, step {newest['step']:,}", head, rows, holds_texts=True))
    return tables


def _answers(event: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    answers = event.get("answers")
    return [answer for answer in answers if isinstance(answer, dict)] if isinstance(answers, list) else []


def _cut(value: Any) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}… ({len(text):,} characters)"
