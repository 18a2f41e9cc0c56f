"""Columns of words are read as corpora have them, and texts and tables are not taken for them."""

from pathlib import Path
from typing import Any

import pytest

from shardtune.rows.input_file import File
from shardtune.rows.readers.conll import looks_like_conll, read_conll
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import read_rows

PLAIN = "EU NNP B-ORG\nrejects VBZ O\n\nUlm NNP B-LOC\n"
UNIVERSAL_NER = (
    "# sent_id = weblog-1\n# text = In New York City\n1\tIn\tO\t-\t-\n2\tNew York\tB-LOC\t-\tann\n"
    "3\tCity\tI-LOC\t-\tann\n\t\n# sent_id = weblog-2\n1\t#\tO\t-\t-\n"
)
GERMEVAL = "#\thttp://x [2009-10-17]\n1\tAachen\tB-LOC\tO\n2\twar\tO\tO\n\n#\thttp://y [2009]\n1\tBonn\tB-LOC\tB-ORG\n"
CONLL_U = (
    "# newdoc id = a\n# sent_id = 1\n"
    "1-2\tau\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tà\tà\tADP\t_\t_\t2\tcase\t_\tSpaceAfter=No|ner=O\n"
    "2\tle\tle\tDET\t_\t_\t0\troot\t_\tner=O\n"
    "2.1\telle\telle\tPRON\t_\t_\t_\t_\t_\t_\n"
    "3\tLyon\tLyon\tPROPN\t_\t_\t2\tflat\t_\tner=B-LOC\n\n"
    "1\tOui\toui\tINTJ\t_\t_\t0\troot\t_\t_\n"
)
MULTICONER = "# id 5a-1 domain=dev\nanna _ _ B-PER\n# _ _ O\n \t\n# id 5a-2 domain=dev\nulm _ _ B-LOC\n"
TAG_FIRST = "B-Rating\t2\nI-Rating\tstart\nO\trestaurants\nO\t#\n\nO\tcheap\n"
MIT = [(["2", "start", "restaurants", "#"], ["B-Rating", "I-Rating", "O", "O"]), (["cheap"], ["O"])]


def read(folder: Path, content: str | bytes) -> tuple[list[tuple[Any, Any]], list[str], list[str]]:
    """The words and tags of each sentence, the notes without the path, and the faults."""
    path = folder / "a.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    notes: list[str] = []
    faults = Faults()
    records = list(read_conll(File(path, say=notes.append), faults))
    pairs = [(record.values["tokens"], record.values.get("tags")) for record in records]
    return (
        pairs,
        [note.removeprefix(f"{path}: ") for note in notes],
        [fault.removeprefix(str(path)) for fault in faults.first],
    )


@pytest.mark.parametrize(
    ("content", "sentences", "notes"),
    [
        (PLAIN, [(["EU", "rejects"], ["B-ORG", "O"]), (["Ulm"], ["B-LOC"])], []),
        ("\ufeff" + PLAIN.replace("\n", " \r\n").replace(" \r\n \r\n", "\r\n\t \r\n"),
         [(["EU", "rejects"], ["B-ORG", "O"]), (["Ulm"], ["B-LOC"])], []),
        (UNIVERSAL_NER, [(["In", "New York", "City"], ["O", "B-LOC", "I-LOC"]), (["#"], ["O"])],
         ["the words are in column 2, the tags in column 3 (data.columns chooses others)",
          "left out: comment lines (3)"]),
        (GERMEVAL, [(["Aachen", "war"], ["O", "O"]), (["Bonn"], ["B-ORG"])],
         ["the words are in column 2, the tags in column 4 (data.columns chooses others)",
          "left out: comment lines (2)"]),
        (CONLL_U, [(["à", "le", "Lyon"], ["O", "O", "B-LOC"]), (["Oui"], ["O"])],
         ["the words are in column 2, the tags in column 10, as ner=… (O for a word without it) (data.columns chooses "
          "others)", "left out: comment lines (2), ranges such as 1-2 (1), empty nodes such as 1.1 (1)"]),
        (MULTICONER, [(["anna", "#"], ["B-PER", "O"]), (["ulm"], ["B-LOC"])], ["left out: comment lines (2)"]),
        (TAG_FIRST, MIT, ["the words are in column 2, the tags in column 1 (data.columns chooses others)"]),
        ("Token\tTag\nEU\tB-ORG\nrejects\tO\n", [(["EU", "rejects"], ["B-ORG", "O"])],
         ["the first line names the columns (token, tag) and is no word"]),
        ("EU\nrejects\n", [(["EU", "rejects"], None)], []),
        ("Anna 3\nlives 0\n# 0\n", [(["Anna", "lives", "#"], ["3", "0", "0"])], []),
        ("Familial B\nis O\n\nrare O\n", [(["Familial", "is"], ["B", "O"]), (["rare"], ["O"])], []),
        ("-DOCSTART-\n\nEU B-ORG\n-DOCSTART- O\nUlm B-LOC\n", [(["EU"], ["B-ORG"]), (["Ulm"], ["B-LOC"])], []),
    ],
)  # fmt: skip
def test_words_and_tags_are_found_in_their_columns(
    tmp_path: Path, content: str, sentences: list[Any], notes: list[str]
) -> None:
    assert read(tmp_path, content) == (sentences, notes, [])


@pytest.mark.parametrize(
    ("content", "columns", "tokens", "tags"),
    [
        (GERMEVAL, {"tokens": "column_2", "tags": "column_3"}, ["Aachen", "war"], ["B-LOC", "O"]),
        (
            UNIVERSAL_NER,
            {"tokens": "column_2", "tags": "column_3"},
            ["In", "New York", "City"],
            ["O", "B-LOC", "I-LOC"],
        ),
        ("PER Anna\nO lives\n", {"tokens": "column_2", "tags": "column_1"}, ["Anna", "lives"], ["PER", "O"]),
    ],
)
def test_any_column_may_be_chosen(
    tmp_path: Path, content: str, columns: dict[str, str], tokens: list[str], tags: list[str]
) -> None:
    (tmp_path / "a.conll").write_text(content, encoding="utf-8")
    first = read_rows(tmp_path / "a.conll", columns)[0]
    assert (first.values["tokens"], first.values["tags"]) == (tokens, tags)


def test_words_that_are_not_on_successive_lines_have_their_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text(CONLL_U, encoding="utf-8")
    first, second = read_conll(File(tmp_path / "a.conll"), Faults())
    assert (first.line, first.values["line_numbers"], second.line) == (4, [4, 5, 7], 9)
    assert "line_numbers" not in second.values


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("# a b\nEU B-ORG\nrejects\n", ":3: 1 columns, but the file's first word has 2"),
        ("EU B-ORG\n#\nrejects O\n", ":2: 1 columns, but the file's first word has 2"),
        ("EU B-ORG\n#brexit\n", ":2: 1 columns, but the file's first word has 2"),
        (UNIVERSAL_NER + "2\tx\tO\n", ":9: 3 columns, but the file's first word has 5"),
        (b"1\tEU\tO\n2\t\xff\tO\n3\tx\tO\n", ":2: not UTF-8 (byte 3 of the line is 0xff)"),
    ],
)
def test_a_word_that_lacks_a_column_is_named_and_no_comment(tmp_path: Path, content: str | bytes, fault: str) -> None:
    (found,) = read(tmp_path, content)[2]
    assert found.startswith(fault)


@pytest.mark.parametrize(
    "content", [PLAIN, UNIVERSAL_NER, GERMEVAL, CONLL_U, MULTICONER, TAG_FIRST, "a\tb-per\nc\to\n",
                "Familial B\nis O\n",
                "-DOCSTART- -X- O\n\nEU NNP O\nrejects VBZ O\n", "token\ttag\nEU\tB-ORG\nrejects\tO\n"]
)  # fmt: skip
def test_columns_of_words_are_recognized_by_their_content(content: str) -> None:
    assert looks_like_conll(content.splitlines(keepends=True))
    assert looks_like_conll(content.splitlines()[:50])


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n\n",
        "A quiet film.\nAnother one.\n",
        "Flight B-52\n",
        "What shall I\nThen I\n",
        "text\tlabel\nA good film\tO\nA bad film\tB\n",
        "text\tlabel\nA good film\tgood\nA bad film\tbad\n",
        "the film\tle film\nthe cat\tle chat\n",
        '{"tokens": ["EU"], "tags": ["O"]}\n{"tokens": ["EU"], "tags": ["O"]}\n',
        "EU 3\nrejects 0\n",
        "# Heading\n\n# Another heading\n",
        "1\tA sentence.\n2\tAnother sentence.\n3\tA third.\n",
        "EU\nrejects\nGerman\n",
    ],
)
def test_texts_and_tables_are_not_taken_for_columns_of_words(content: str) -> None:
    assert not looks_like_conll(content.splitlines(keepends=True))
