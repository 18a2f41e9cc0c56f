"""Rows know their file and line, and every malformed one is named before anything else happens."""

from pathlib import Path

import pytest

from trainer.config.errors import DataError
from trainer.data.source import read_rows


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "good, film", "label": "x"}\n\n{"text": "好片", "label": "y"}\n'),
        ("a.jsonl", '\ufeff{"text": "good, film", "label": "x"}\r\n\r\n{"text": "好片", "label": "y"}'),
        ("a.csv", 'text,label\n"good, film",x\n\n好片,y\n'),
        ("a.tsv", "\ufefftext\tlabel\r\ngood, film\tx\r\n好片\ty\r\n"),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    rows = read_rows(written(tmp_path, name, content), {})
    assert [dict(row.values) for row in rows] == [{"text": "good, film", "label": "x"}, {"text": "好片", "label": "y"}]


def test_a_row_knows_its_line_also_after_blank_and_many_lined_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"two\nlines",x\n\nlast,y\n')
    assert [str(row) for row in read_rows(path, {})] == [f"{path}:2", f"{path}:5"]


def test_columns_are_renamed_to_ours(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a.csv", "review,stars\ngood,5\n"), {"text": "review", "label": "stars"})
    assert dict(rows[0].values) == {"text": "good", "label": "5"}


BAD = [
    ("a.jsonl", '{"text": "good"}\n{"text": \n', "a.jsonl:2: not JSON"),
    ("a.jsonl", "[1, 2]\n", "a.jsonl:1: expected an object"),
    ("a.jsonl", b'{"text": "good"}\n{"text": "\xff"}\n', "a.jsonl:2: not UTF-8 (byte 11 of the line is 0xff)"),
    ("a.jsonl", "", "a.jsonl: no rows in it"),
    ("a.jsonl", "\n\n", "a.jsonl: no rows in it"),
    ("a.csv", "text,label\n", "a.csv: no rows in it"),
    ("a.csv", "text,label\ngood,x\ngood\n", "a.csv:3: 1 cells under a header of 2"),
    ("a.csv", "text,text\ngood,x\n", "a.csv:1: two columns of one name"),
    ("a.csv", 'text,label\n"good,x\n', "a.csv:2: malformed"),
    ("a.xml", "<a/>", "a.xml: unknown format '.xml'; legal: .jsonl, .csv, .tsv"),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD)
def test_a_malformed_file_is_named_with_its_line_and_left_as_it_was(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    path = written(tmp_path, name, content)
    before = path.read_bytes()
    with pytest.raises(DataError) as raised:
        read_rows(path, {})
    assert str(raised.value).startswith(f"{tmp_path}/{said}")
    assert path.read_bytes() == before


def test_all_faults_are_said_at_once_and_the_many_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_rows(written(tmp_path, "a.jsonl", "x\n" * 1234), {})
    lines = str(raised.value).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "… and 1,224 more"


def test_a_column_that_is_nowhere_is_said_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.columns\.text: no row has a column 'revue'; found: review, stars"):
        read_rows(written(tmp_path, "a.csv", "review,stars\ngood,5\n"), {"text": "revue"})
