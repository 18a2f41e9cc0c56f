"""The rows that look wrong to the model, if `shardtune suspects` has looked for them."""

from collections.abc import Mapping
from typing import Any

from shardtune.json_lines import json_objects
from shardtune.launcher.report.parts import Table
from shardtune.launcher.report.record import RunRecord
from shardtune.run_dir.files import SUSPECTS

MOST_ROWS, MOST_CHARACTERS = 50, 300


def suspects(record: RunRecord) -> list[Table]:
    """A table of the worst ones; none if they were not looked for, or there are none."""
    found = _read(record)
    if not found:
        return []
    has_labels = any("predicted" in row for row in found)
    head = ("place", "label", "rather", "text") if has_labels else ("place", "loss", "text")
    rows = [_cells(row, has_labels=has_labels) for row in found[:MOST_ROWS]]
    first = f"The first {MOST_ROWS} of {len(found):,}. " if len(found) > MOST_ROWS else ""
    seen = "" if all(row.get("is_unseen") for row in found) else "Rows of train: by the model trained on them. "
    title = "Rows whose labels the model disagrees with" if has_labels else "Rows with the highest loss"
    return [Table(title, head, rows, holds_texts=True, note=f"{first}{seen}All: {SUSPECTS}.")]


def _cells(row: Mapping[str, Any], *, has_labels: bool) -> tuple[str, ...]:
    place, text = str(row.get("place", "")), str(row.get("text", ""))[:MOST_CHARACTERS]
    if not has_labels:
        return place, _number(row.get("loss")), text
    word = f"{row['word']!r}: " if "word" in row else ""
    label = f"{word}{row.get('label')} ({_number(row.get('label_probability'))})"
    return place, label, f"{row.get('predicted')} ({_number(row.get('predicted_probability'))})", text


def _number(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else ""


def _read(record: RunRecord) -> list[dict[str, Any]]:
    """The rows in the file, without those that are no suspects."""
    if record.run_dir is None:
        return []
    try:
        lines = (record.run_dir / SUSPECTS).read_bytes().splitlines()
    except OSError:
        return []
    return [row for row in json_objects(lines) if "place" in row]
