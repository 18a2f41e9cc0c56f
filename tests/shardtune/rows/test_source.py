"""Rows know their place, and every malformed row is reported before anything else happens."""

from pathlib import Path

import pytest

from shardtune.errors import DataError
from shardtune.rows.source import Row, columns_of, read_rows, require_columns


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_row_knows_its_line_also_after_blank_lines_and_records_of_several_lines(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'text,label\n"two\nlines",x\n\nlast,y\n')
    assert [str(row) for row in read_rows(path, {})] == [f"{path}:2", f"{path}:5"]


@pytest.mark.parametrize(
    ("row", "word", "place"),
    [
        (Row({}, Path("a.conll"), 7, has_word_a_line=True), 2, "a.conll:9"),
        (Row({}, Path("words"), 7, has_word_a_line=True), 2, "words:9"),
        (Row({}, Path("a.jsonl"), 7), 2, "a.jsonl:7"),
        (Row({}, Path("a.json"), 7, item=3), 2, "a.json:7 (row 3)"),
        (Row({}, Path("a.parquet"), 0, item=3), 2, "a.parquet: row 3"),
        (Row({}, Path("hf:owner/name"), 0, item=3), 2, "hf:owner/name: row 3"),
    ],
)
def test_a_word_has_a_line_of_its_own_only_where_a_line_is_a_word(row: Row, word: int, place: str) -> None:
    assert row.word(word) == place


def test_a_word_is_a_place_of_its_row() -> None:
    row = Row({}, Path("a.conll"), 7)
    assert row.word(2).row == row.word(3).row == row.place.row == row.key
    assert len({row.key, Row({}, Path("a.conll"), 8).key, Row({}, Path("a.conll"), 7, source=1).key}) == 3


def test_columns_are_renamed_to_ours(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, "a.csv", "review,stars\ngood,5\n"), {"text": "review", "label": "stars"})
    assert dict(rows[0].values) == {"text": "good", "label": "5"}


def test_all_rows_of_a_folder_or_a_glob_are_read_in_the_order_of_the_names(tmp_path: Path) -> None:
    for name in ("b.csv", "a/z.csv", ".hidden.csv", ".git/x.csv"):
        written(tmp_path, name, f"text\n{name}\n")
    written(tmp_path, "README.md", "# not rows")
    notes: list[str] = []
    assert [row.values["text"] for row in read_rows(tmp_path, {}, say=notes.append)] == ["a/z.csv", "b.csv"]
    assert notes == ["2 files: z.csv, b.csv"]
    assert [row.values["text"] for row in read_rows(tmp_path / "*.csv", {})] == ["b.csv"]
    assert [row.values["text"] for row in read_rows(tmp_path / "**" / "*.csv", {})] == ["a/z.csv", "b.csv"]


def test_all_faults_are_reported_at_once_and_counted_beyond_the_first(tmp_path: Path) -> None:
    written(tmp_path, "a.jsonl", "x\n" * 1000)
    written(tmp_path, "b.jsonl", "x\n" * 234)
    with pytest.raises(DataError) as raised:
        read_rows(tmp_path, {})
    (line,) = str(raised.value).splitlines()
    assert line.startswith(
        f"{tmp_path}/a.jsonl:1: not JSON: expecting value (character 1 of the line) (and 1,233 more rows: "
    )


def test_a_column_that_no_row_has_is_reported_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.columns\.text: no row has a column 'revue'; found: review, stars"):
        read_rows(written(tmp_path, "a.csv", "review,stars\ngood,5\n"), {"text": "revue"})


def test_each_source_must_have_the_columns_in_one_row_at_least() -> None:
    rows = [
        Row({"text": "a", "label": "x"}, Path("a.jsonl"), 1, source=0),
        Row({"text": "a"}, Path("b.jsonl"), 1, source=0),
        Row({"review": "b", "label": "y"}, Path("c.csv"), 2, source=1),
        Row({"review": "b", "label": "y"}, Path("d.csv"), 2, source=1),
    ]
    require_columns([columns_of(rows[:2])], ["text", "label"])
    with pytest.raises(DataError) as raised:
        require_columns([columns_of(rows)], ["text", "label"])
    assert str(raised.value) == "c.csv: no column 'text'; found: review, label. Name yours: data.columns={text: …}"


def test_a_missing_column_is_reported_with_the_names_of_the_file_in_its_order(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "title,category,article\nnews,x,good\n")
    notes: list[str] = []
    rows = read_rows(path, {}, {"text": (), "label": ("category",)}, notes.append)
    assert notes == ["using column category as label (a guess; set data.columns to change it)"]
    with pytest.raises(DataError) as raised:
        require_columns([columns_of(rows)], ["text", "label"])
    assert str(raised.value).startswith(f"{path}: no column 'text'; found: title, category, article. Name yours")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"review": "b", "stars": "5"},
            "c.csv: no columns 'text', 'label'; found: review, stars. Name yours: data.columns={text: …, label: …}",
        ),
        (
            {"text;label": "b;5"},
            "c.csv: no columns 'text', 'label'; found: text;label. If ';' separates the columns, set "
            "separator: ';' in the source",
        ),
    ],
)
def test_all_missing_columns_are_reported_with_one_remedy(values: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as raised:
        require_columns([columns_of([Row(values, Path("c.csv"), 2)])], ["text", "label"])
    assert str(raised.value) == message
