"""Rows as annotation tools export them: where their texts and spans are. A new format is one function and one line.

No value of a row is changed: an export only adds columns under our names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from shardtune.rows.columns import plain
from shardtune.trainer.tasks.token_classification.cells import parse_value

_STARTS = ("start", "start_offset", "startoffset", "begin", "begin_offset", "beginoffset", "start_char", "offset")
_ENDS = ("end", "end_offset", "endoffset", "end_char", "stop")
_LABELS = ("label", "labels", "type", "tag", "entity", "entity_type", "entity_group", "category")
_SPAN_COLUMNS = ("label", "labels", "entities", "ents", "annotations", "annotation", "tags", "ner")
_TAG_COLUMNS = ("label", "labels", "tag", "word_labels", "ner", "ner_tags")


class GivenSpan(NamedTuple):
    """A span as a row has it, in characters of the text."""

    start: int
    end: int
    labels: tuple[str, ...]
    text: str | None
    """What the row says that the span covers; None if it does not say."""


class Export(NamedTuple):
    """What the row of an export holds."""

    columns: dict[str, Any]
    """To be added to the row; `spans` is None if nobody has annotated its text."""
    left_out: Counter[str]
    """What is in the row and is not read."""


def read_span(given: Any) -> GivenSpan | None:
    """The span that an object or a list of three values describes; None if it is none."""
    if isinstance(given, Mapping):
        values = {plain(str(name)): value for name, value in given.items()}
        start, end = _first(values, _STARTS), _first(values, _ENDS)
        if end is None and type(start) is int and type(length := values.get("length")) is int:
            end = start + length
        label, text = _first(values, _LABELS), values.get("text")
    elif isinstance(given, list | tuple) and len(given) == 3:
        (start, end, label), text = given, None
        if isinstance(start, str):
            start, end, label = end, label, start
    else:
        return None
    labels = tuple(label) if isinstance(label, list | tuple) else (label,)
    if type(start) is not int or type(end) is not int or not all(isinstance(name, str) and name for name in labels):
        return None
    return GivenSpan(start, end, labels, text if isinstance(text, str) else None)


def spans_in(value: Any) -> list[Any] | None:
    """The list of spans that a column holds, also within a text or as `entities` of an object; None if it has none."""
    if isinstance(value, str):
        value = parse_value(value)
    if isinstance(value, Mapping):
        value = value.get("entities")
    return list(value) if isinstance(value, list | tuple) else None


def read_export(values: Mapping[str, Any]) -> tuple[str, Export] | None:
    """What the row is read as, and what it holds; None if it has its columns under our names already."""
    for name, read in EXPORTS.items():
        if (export := read(values)) is not None:
            return name, export
    return None


def is_unlabeled(values: Mapping[str, Any]) -> bool:
    """Whether a row of an export has not been annotated."""
    if "answer" not in values and "data" not in values:  # of the exports that can say so
        return False
    found = read_export(values)
    return found is not None and found[1].columns.get("spans", ()) is None


def _label_studio(values: Mapping[str, Any]) -> Export | None:
    """Label Studio's JSON: the results of the first annotation, or of the one marked as ground truth."""
    data, annotations = values.get("data"), values.get("annotations", values.get("completions"))
    if not isinstance(data, Mapping) or not isinstance(annotations, list):
        return None
    texts = [data["text"]] if "text" in data else [value for value in data.values() if isinstance(value, str)]
    if len(texts) != 1:
        return None
    left_out = Counter[str]()
    sound = [one for one in annotations if isinstance(one, Mapping) and not one.get("was_cancelled")]
    sound = [one for one in sound if isinstance(one.get("result"), list)]
    left_out["cancelled annotations"] = len(annotations) - len(sound)
    if not sound:
        left_out["texts without an annotation"] = 1
        return Export({"text": texts[0], "spans": None}, +left_out)
    left_out["second annotations of a text"] = len(sound) - 1
    chosen = next((one for one in sound if one.get("ground_truth")), sound[0])
    spans = []
    for result in chosen["result"]:
        value = result.get("value") if isinstance(result, Mapping) else None
        if isinstance(value, Mapping) and "start" in value:
            spans.append(dict(value))
        else:
            kind = result.get("type") if isinstance(result, Mapping) else None
            left_out["relations" if kind == "relation" else f"results of type {kind!s:.40}"] += 1
    return Export({"text": texts[0], "spans": spans}, +left_out)


def _label_studio_min(values: Mapping[str, Any]) -> Export | None:
    """Label Studio's JSON-MIN, whose rows have no column of spans if there are none."""
    is_min = {"annotation_id", "annotator"} <= values.keys() and isinstance(values.get("text"), str)
    if not is_min or values.get("spans") or any(spans_in(values.get(name)) for name in _SPAN_COLUMNS):
        return None
    return Export({"spans": []}, Counter())


def _prodigy(values: Mapping[str, Any]) -> Export | None:
    """Prodigy's JSONL: rows that were rejected or ignored are not annotated."""
    answer, tokens, spans = values.get("answer"), values.get("tokens"), values.get("spans")
    has_objects = isinstance(tokens, list) and bool(tokens) and isinstance(tokens[0], Mapping)
    is_answered = answer in ("accept", "reject", "ignore")
    if not isinstance(values.get("text"), str) or not (has_objects or is_answered) or values.get("tags") is not None:
        return None
    if answer in ("reject", "ignore"):
        return Export({"spans": None}, Counter({f"rows with the answer {answer!r}": 1}))
    return Export({"spans": [] if spans is None else spans}, Counter())


def _prediction(values: Mapping[str, Any]) -> Export | None:
    """What `shardtune predict` writes, for a row that has no entities of its own."""
    prediction = values.get("prediction")
    spans = prediction.get("spans") if isinstance(prediction, Mapping) else None
    if not isinstance(spans, list) or values.get("tags") is not None or not _is_free(values, "spans", spans):
        return None
    return Export({"spans": spans}, Counter())


def _spans_elsewhere(values: Mapping[str, Any]) -> Export | None:
    """doccano, spaCy, JSON-MIN and the like: a text, and spans in a column that others use for labels too."""
    if not isinstance(values.get("text"), str) or values.get("tokens") is not None:
        return None
    found = {name: spans for name in _SPAN_COLUMNS if (spans := spans_in(values.get(name))) is not None}
    found = {name: spans for name, spans in found.items() if all(read_span(given) is not None for given in spans)}
    names = [name for name, spans in found.items() if spans] or list(found)
    if len(names) != 1 or not _is_free(values, "spans", values[names[0]]):
        return None
    return Export({"spans": values[names[0]]}, Counter())


def _tags_elsewhere(values: Mapping[str, Any]) -> Export | None:
    """Tokens, and as many tags in a column that others use for labels too."""
    tokens = values.get("tokens")
    if not isinstance(tokens, list) or values.get("spans") is not None:
        return None
    lists = {name: tags for name in _TAG_COLUMNS if isinstance(tags := values.get(name), list)}
    names = [name for name, tags in lists.items() if len(tags) == len(tokens) and _are_tags(tags)]
    if len(names) != 1 or not _is_free(values, "tags", values[names[0]]):
        return None
    return Export({"tags": values[names[0]]}, Counter())


def _tagged_text(values: Mapping[str, Any]) -> Export | None:
    """A text, and a tag for each of its words."""
    text, tags = values.get("text"), values.get("tags")
    if not isinstance(text, str) or not tags or not _is_free(values, "tokens", text) or values.get("spans") is not None:
        return None
    is_list = isinstance(tags, list) and _are_tags(tags)
    return Export({"tokens": text}, Counter()) if is_list or isinstance(tags, str) else None


EXPORTS: dict[str, Callable[[Mapping[str, Any]], Export | None]] = {
    "Label Studio's export": _label_studio,
    "Label Studio's JSON-MIN, without a span": _label_studio_min,
    "Prodigy's export": _prodigy,
    "predictions of shardtune": _prediction,
    "a text with spans under another name": _spans_elsewhere,
    "tokens with tags under another name": _tags_elsewhere,
    "a text with a tag for each word": _tagged_text,
}
"""What a row may be read as, and how; the first that applies."""


def _are_tags(values: list[Any]) -> bool:
    return bool(values) and all(type(value) in (str, int) for value in values)


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _is_free(values: Mapping[str, Any], column: str, value: Any) -> bool:
    """Whether the row has no such column of its own: none, or the one that was added."""
    return values.get(column) is None or values[column] is value
