"""CSV and TSV as people save them: whatever separates the cells, encodes the text, or is missing in the header."""

from pathlib import Path
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import columns_of, read_rows, read_source, require_columns
from shardtune.rows.source_config import SourceConfig

ROWS = [{"text": "caf\u00e9, warm", "label": "good"}, {"text": "cold; \u201cbad\u201d", "label": "bad"}]


def read(path: Path, content: str | bytes, **options: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a file with this content, and the notes. Raises DataError with its faults."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    faults, notes = Faults(), list[str]()
    rows = read_source(SourceConfig(path=str(path), **options), faults, synonyms={}, say=notes.append)
    faults.raise_if_any()
    return [dict(row.values) for row in rows], [note.removeprefix(f"{path}: ") for note in notes]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("separator", [",", ";", "|", "\t"])
@pytest.mark.parametrize("is_quoted", [True, False])
def test_the_separator_is_found_out_and_reported_if_it_is_not_the_usual_one(
    tmp_path: Path, name: str, separator: str, is_quoted: bool
) -> None:
    quote = '"' if is_quoted else ""
    cells = [["text", "label"], *([f"text {number}", "x"] for number in range(100))]
    content = "".join(separator.join(f"{quote}{cell}{quote}" for cell in row) + "\r\n" for row in cells)
    rows, notes = read(tmp_path / name, content)
    assert rows == [{"text": f"text {number}", "label": "x"} for number in range(100)]
    is_usual = separator == {"a.csv": ",", "a.tsv": "\t"}[name]
    assert notes == ([] if is_usual else [f"columns are separated by {separator!r}"])


def test_other_marks_in_the_cells_mislead_nobody(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", "text,label\na;b,x\nc|d;e,y\n")[0][1] == {"text": "c|d;e", "label": "y"}
    assert read(tmp_path / "a.csv", "text;label\na, b;x\nc;y\n")[0][0] == {"text": "a, b", "label": "x"}
    assert read(tmp_path / "a.csv", "text\na;b\nc;d\n") == ([{"text": "a;b"}, {"text": "c;d"}], [])
    assert read(tmp_path / "a.csv", 'text;label\n"a\nb;c";x\n')[0] == [{"text": "a\nb;c", "label": "x"}]
    assert read(tmp_path / "a.csv", "sep=;\ntext;label\na;x\n")[0] == [{"text": "a", "label": "x"}]
    assert read(tmp_path / "a.csv", "a~b\n1~2\n", separator="~")[0] == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8-sig", "cp1250"])
def test_a_named_encoding_is_read(tmp_path: Path, encoding: str) -> None:
    content = 'text,label\n"caf\u00e9, warm",good\n"cold; \u201cbad\u201d",bad\n'.encode(encoding)
    assert read(tmp_path / "a.csv", content, encoding=encoding)[0] == ROWS


@pytest.mark.parametrize(("encoding", "text"), [("gb18030", "\u597d\u7247"), ("big5", "\u597d\u96fb\u5f71")])
def test_chinese_encodings_are_read(tmp_path: Path, encoding: str, text: str) -> None:
    content = f"text,label\n{text},x\n".encode(encoding)
    assert read(tmp_path / "a.csv", content, encoding=encoding)[0] == [{"text": text, "label": "x"}]


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "the caf\u00e9 is warm, the price \u00a31000 and the r\u00e9sum\u00e9 good"),
        ("gb18030", "\u8fd9\u90e8\u7535\u5f71\u5f88\u597d\u770b\uff0c\u6211\u5f88\u559c\u6b22"),
        ("big5", "\u9019\u90e8\u96fb\u5f71\u5f88\u597d\u770b\uff0c\u6211\u5f88\u559c\u6b61"),
    ],
)
def test_the_error_names_the_line_and_a_guess_of_the_encoding_with_its_reading(
    tmp_path: Path, encoding: str, text: str
) -> None:
    lines = "".join(f"{text},x\n" for _ in range(5))
    with pytest.raises(DataError) as raised:
        read(tmp_path / "a.csv", f"text,label\nfine,x\n{lines}".encode(encoding))
    first = str(raised.value).splitlines()[0]
    assert first.startswith(f"{tmp_path / 'a.csv'}:3: not UTF-8 (byte ")
    assert f"it looks like {encoding}" in first and text[:20] in first and f"encoding: {encoding}}}" in first


def test_columns_without_a_name_are_left_out_if_they_are_empty_and_numbered_otherwise(tmp_path: Path) -> None:
    content = 'v1,v2,,,\nham,"a, b",,,\nspam,c,,,\n'
    assert read(tmp_path / "a.csv", content) == ([{"v1": "ham", "v2": "a, b"}, {"v1": "spam", "v2": "c"}], [])
    rows, notes = read(tmp_path / "a.csv", "v1,v2,\nham,a,\nspam,b,and more\n")
    assert rows == [{"v1": "ham", "v2": "a"}, {"v1": "spam", "v2": "b", "column_3": "and more"}]
    assert notes == ["1 row (from line 3 on) with cells in columns without a name, read as column_3"]
    assert read(tmp_path / "a.csv", "v1,v2\nham,a,,\n")[0] == [{"v1": "ham", "v2": "a"}]
    assert read(tmp_path / "a.csv", ",text\n0,a\n1,b\n")[0][1] == {"column_1": "1", "text": "b"}  # of pandas


def test_a_file_without_a_header_has_numbered_columns(tmp_path: Path) -> None:
    rows, _ = read(tmp_path / "a.tsv", "ham\ta b\nspam\tc\n", header=False, columns={"text": "column_2"})
    assert rows == [{"column_1": "ham", "text": "a b"}, {"column_1": "spam", "text": "c"}]
    with pytest.raises(DataError, match=r"a.tsv:2: 1 cells, not 2: column_1, column_2"):
        read(tmp_path / "a.tsv", "ham\ta b\nspam\n", header=False)


def test_several_columns_become_one(tmp_path: Path) -> None:
    columns = {"label": ("toxic", "insult"), "text": "comment"}
    rows, _ = read(tmp_path / "a.csv", "id,comment,toxic,insult\n1,a,0,1\n", columns=columns)
    assert rows == [{"id": "1", "text": "a", "label": {"toxic": "0", "insult": "1"}}]
    with pytest.raises(DataError, match=r"data.columns.label: no row has a column 'threat'; found: id, comment"):
        read(tmp_path / "a.csv", "id,comment,toxic\n1,a,0\n", columns={"label": ("toxic", "threat")})


def test_json_lines_whatever_the_ending(tmp_path: Path) -> None:
    rows, notes = read(tmp_path / "train", '{"text": "a"}\n{"text": "b"}\n')
    assert rows == [{"text": "a"}, {"text": "b"}]
    assert notes == ["read as jsonl, judging by its content (set format in the source to change it)"]
    assert read(tmp_path / "a.data", "text,label\na,x\n", format="csv")[0] == [{"text": "a", "label": "x"}]
    with pytest.raises(DataError, match=r"unknown format '.data'; legal: .jsonl, .*set format in the source to one of"):
        read(tmp_path / "a.data", "text,label\na,x\n")


def test_a_row_that_was_taken_for_the_header_is_suspected(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("ham\tGo until jurong point\nspam\tcall now\n")
    with pytest.raises(DataError, match=r"Line 1 was read as the header; if it is a row, set header: false"):
        require_columns([columns_of(read_rows(tmp_path / "a.tsv", {}))], ["text", "label"])
