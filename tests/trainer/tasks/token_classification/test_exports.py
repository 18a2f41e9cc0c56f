"""Each annotation tool's export teaches the same entities; what it has beside them is counted, never trained on."""

from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row
from shardtune.trainer.tasks.token_classification.exports import read_export, read_span
from shardtune.trainer.tasks.token_classification.notation import Readings
from shardtune.trainer.tasks.token_classification.rows import spans_of_row, words_of
from shardtune.trainer.tasks.token_classification.spans import Span
from shardtune.trainer.tasks.token_classification.survey import TokenSurvey
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification

OPTIONS = TokenClassificationOptions(kind="token_classification")
TEXT = "Ann Lee left Ulm."
SPANS = [Span(0, 2, "PER"), Span(3, 4, "LOC")]
PER, LOC = {"start": 0, "end": 7, "text": "Ann Lee", "labels": ["PER"]}, {"start": 13, "end": 16, "labels": ["LOC"]}
TOKENS = [
    {"text": word, "start": start, "end": start + len(word), "id": number}
    for number, (word, start) in enumerate([("Ann", 0), ("Lee", 4), (" ", 7), ("left", 8), ("Ulm", 13), (".", 16)])
]
PREDICTED = [
    {"type": "PER", "text": "Ann Lee", "start": 0, "end": 7, "score": 0.9},
    {"type": "LOC", "text": "Ulm", "start": 13, "end": 16, "score": 0.8},
]
TRIPLES = [[0, 7, "PER"], [13, 16, "LOC"]]
OFFSETS = [{"id": 1, "label": "PER", "start_offset": 0, "end_offset": 7},
           {"id": 2, "label": "LOC", "start_offset": 13, "end_offset": 16}]  # fmt: skip


def label_studio(*annotations: dict[str, Any]) -> dict[str, Any]:
    return {"id": 1, "data": {"text": TEXT}, "annotations": list(annotations), "predictions": []}


def annotation(*values: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"result": [{"type": "labels", "value": value} for value in values], **more}


def row_of(values: dict[str, Any]) -> Row:
    """A row as the reading of a source leaves it."""
    return Row({**values, **TokenClassification.named_columns(OPTIONS, values)}, Path("r.jsonl"), 1)


def survey(*rows: Row, options: TokenClassificationOptions = OPTIONS) -> TokenSurvey:
    """The complete survey of training rows."""
    found, faults = TokenSurvey(options), Faults()
    while found.conclude({"train": [found.observe("train", rows, faults)]}, faults):
        pass
    faults.raise_if_any()
    return found


EXPORTS = {
    "triples": {"text": TEXT, "spans": TRIPLES},
    "types": {"text": TEXT, "spans": [{"start": 0, "end": 7, "type": "PER"}, {"start": 13, "end": 16, "type": "LOC"}]},
    "offsets": {"text": TEXT, "spans": OFFSETS},
    "lists of labels": {"text": TEXT, "spans": [PER, LOC]},
    "spaCy": {"text": TEXT, "entities": TRIPLES},
    "spaCy in a cell": {"text": TEXT, "spans": "[(0, 7, 'PER'), (13, 16, 'LOC')]"},
    "doccano": {"id": 7, "text": TEXT, "label": TRIPLES, "Comments": []},
    "doccano, older": {"id": 7, "text": TEXT, "labels": TRIPLES},
    "doccano, labels taken for tags": {"id": 7, "text": TEXT, "tags": TRIPLES},
    "doccano with relations": {"text": TEXT, "entities": OFFSETS, "relations": [], "Comments": []},
    "Label Studio": label_studio(annotation(PER, LOC)),
    "JSON-MIN": {"id": 1, "text": TEXT, "label": [PER, LOC], "annotator": 1, "annotation_id": 3},
    "Prodigy": {
        "text": TEXT, "tokens": TOKENS, "answer": "accept",
        "spans": [{"start": 0, "end": 7, "token_start": 0, "token_end": 1, "label": "PER"},
                  {"start": 13, "end": 16, "token_start": 4, "token_end": 4, "label": "LOC"}],
    },
    "predictions": {"text": TEXT, "prediction": {"spans": PREDICTED}},
    "predictions of tokens": {"tokens": ["Ann", "Lee", "left", "Ulm", "."], "prediction": {"spans": PREDICTED}},
}  # fmt: skip


@pytest.mark.parametrize("values", EXPORTS.values(), ids=EXPORTS)
def test_the_spans_of_each_export_are_found(values: dict[str, Any]) -> None:
    row, faults = row_of(values), Faults()
    assert spans_of_row(row, words_of(row, keep_inner=False), faults, Readings()) == SPANS
    assert str(faults) == ""
    assert survey(row).facts["span_counts"] == {"train": {"PER": 1, "LOC": 1}}


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"text": "Ann left", "tags": "B-PER O"}, {"tokens": "Ann left"}),
        ({"text": "Ann left", "tags": ["B-PER", "O"]}, {"tokens": "Ann left"}),
        ({"tokens": ["Ann", "left"], "label": ["B-PER", "O"]}, {"tags": ["B-PER", "O"]}),
        ({"tokens": ["Ann", "left"], "label": ["B-PER"]}, None),
        ({"tokens": ["Ann"], "label": ["B-PER"], "ner": ["O"]}, None),
        ({"tokens": ["Ann"], "tags": ["O"], "label": ["B-PER"]}, None),
        ({"text": "Ann left", "label": "positive"}, None),
        ({"text": "Ann left", "label": ["PER"]}, None),
        ({"text": "Ann left", "label": [[0, 3, "PER"]], "ner": [[4, 8, "X"]]}, None),
        ({"text": "Ann left", "spans": [], "label": [[0, 3, "PER"]]}, None),
        ({"tokens": ["Ann"], "tags": ["B-PER"], "prediction": {"spans": []}}, None),
        ({"data": {"a": "one", "b": "two"}, "annotations": []}, None),
    ],
)
def test_only_what_is_unambiguous_is_taken_from_other_columns(values: dict[str, Any], columns: Any) -> None:
    found = read_export(values)
    assert (found and found[1].columns) == columns


def test_what_an_export_has_beside_the_spans_is_left_out_and_counted() -> None:
    relation = {"type": "relation", "from_id": "a", "to_id": "b"}
    rated = {"result": [*annotation(PER)["result"], relation, {"type": "choices", "value": {"choices": ["x"]}}]}
    rows = [
        label_studio(annotation(LOC, was_cancelled=True), rated, annotation(LOC)),
        label_studio(annotation(LOC, was_cancelled=True)),
        label_studio(annotation()),
        label_studio(annotation(PER), annotation(LOC, ground_truth=True)),
        {"text": TEXT, "tokens": TOKENS, "spans": [{"start": 0, "end": 7, "label": "ORG"}], "answer": "reject"},
    ]
    found = survey(*map(row_of, rows))
    assert found.facts["span_counts"] == {"train": {"PER": 1, "LOC": 1}}
    assert found.notes == [
        "read as Label Studio's export: 4 rows",
        "left out: cancelled annotations (2)",
        "left out: second annotations of a text (2)",
        "left out: relations (1)",
        "left out: results of type choices (1)",
        "left out: texts without an annotation (1)",
        "read as Prodigy's export: 1 row",
        "left out: rows with the answer 'reject' (1)",
    ]


def test_spans_that_count_as_javascript_does_are_moved_to_their_texts_and_counted() -> None:
    values = {"text": "😀 Ann, 😀 Ulm", "label": [{"start": 3, "end": 6, "text": "Ann", "labels": ["PER"]}]}
    found = survey(row_of(values))
    assert found.facts["span_counts"] == {"train": {"PER": 1}}
    assert found.notes[-1] == "spans: 1 count UTF-16 units, as JavaScript does; moved to where their texts are"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"text": TEXT, "spans": [{"start": 0, "end": 7, "label": ["PER", "ORG"]}]},
         "span {'start': 0, 'end': 7, 'label': ['PER', 'ORG']}: has 2 labels, but a word has one tag; keep "
         "one of them"),
        ({"text": TEXT, "spans": [{"start": 0, "end": 7, "label": []}]},
         "span {'start': 0, 'end': 7, 'label': []}: expected start and end (0 to 17) around words, and a label"),
        ({"text": TEXT, "spans": [{"start": 8, "end": 12, "label": "PER", "text": "Lee"}]},
         "span 8 to 12: the text there is 'left', but the row says 'Lee'"),
        ({"tokens": ["Ann", "Lee"], "spans": [[0, 1, "PER"]]},
         "span [0, 1, 'PER']: does not say its text, so it may count characters or words; give tags"),
        ({"data": {"a": "one", "b": "two"}, "annotations": []}, "neither tokens nor text; found: data, annotations"),
    ],
)  # fmt: skip
def test_a_span_that_may_mean_something_else_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as raised:
        survey(row_of(values))
    assert str(raised.value) == f"r.jsonl:1: {message}"


@pytest.mark.parametrize(
    "given",
    [None, "PER", 3, [0, 7], [0, 7, 3], [0.0, 7, "PER"], [True, 7, "PER"], {"start": "0", "end": 7, "label": "x"}],
)
def test_what_is_no_span_is_not_read_as_one(given: Any) -> None:
    assert read_span(given) is None
