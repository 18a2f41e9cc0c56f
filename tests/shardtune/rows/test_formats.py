"""Every format gives the same rows; any file gives rows, or a DataError that says where."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import ipc, parquet

from shardtune.errors import DataError
from shardtune.rows.formats import FORMATS, read_file
from shardtune.rows.input_file import File, ReadOptions
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import read_rows

TWO = [{"text": "good, film", "label": "x"}, {"text": "好片", "label": "y"}]
UTF8 = '{"text": "好片"}\n'


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def parquet_of(table: pa.Table) -> bytes:
    parquet.write_table(table, sink := io.BytesIO())
    return sink.getvalue()


def arrow_of(table: pa.Table) -> bytes:
    with ipc.new_file(sink := io.BytesIO(), table.schema) as file:
        file.write_table(table)
    return sink.getvalue()


def stream_of(table: pa.Table) -> bytes:
    with ipc.new_stream(sink := io.BytesIO(), table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue()


def zstd(content: bytes) -> bytes:
    compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return compressed


TABLE = pa.Table.from_pylist(TWO)
LINES = '{"text": "good, film", "label": "x"}\n\n{"text": "好片", "label": "y"}\n'
ARRAY = '[\n {"text": "good, film", "label": "x"},\n\n {"text": "好片",\n  "label": "y"}\n]\n'
GOOD: list[tuple[str, str | bytes, list[str]]] = [
    ("a.jsonl", LINES, [":1", ":3"]),
    ("a.jsonl", "\ufeff" + LINES.replace("\n", "\r\n").rstrip(), [":1", ":3"]),
    ("a.csv", 'text,label\n"good, film",x\n\n好片,y\n', [":2", ":4"]),
    ("a.csv", '"text", label\n"good, film",x\n好片,y', [":2", ":3"]),
    ("a.tsv", "\ufefftext\tlabel\r\ngood, film\tx\r\n好片\ty\r\n", [":2", ":3"]),
    ("a.json", ARRAY, [":2 (row 1)", ":4 (row 2)"]),
    ("a.json", json.dumps(TWO), [":1 (row 1)", ":1 (row 2)"]),
    ("a.json", json.dumps({"version": [1], "data": TWO, "none": []}), [":1 (row 1)", ":1 (row 2)"]),
    ("a.json", LINES, [":1", ":3"]),
    ("a.parquet", parquet_of(TABLE), [": row 1", ": row 2"]),
    ("a.arrow", arrow_of(TABLE), [": row 1", ": row 2"]),
    ("a.arrow", stream_of(TABLE), [": row 1", ": row 2"]),
]
GOOD += [
    (name, content.encode(encoding), places)
    for name, content, places in GOOD[::3]
    for encoding in ("utf-16", "utf-32")
    if isinstance(content, str) and not content.startswith("\ufeff")
]
GOOD += [
    (f"{name}.gz", gzip.compress(content.encode() if isinstance(content, str) else content, mtime=0), places)
    for name, content, places in GOOD
]
GOOD += [(f"{name[:-3]}.ZST", zstd(gzip.decompress(content)), places)
         for name, content, places in GOOD if name.endswith(".gz") and isinstance(content, bytes)]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "places"), GOOD)
def test_every_format_gives_the_same_rows_and_each_knows_its_place(
    tmp_path: Path, name: str, content: str | bytes, places: list[str]
) -> None:
    path = written(tmp_path, name, content)
    rows = read_rows(path, {})
    assert [dict(row.values) for row in rows] == TWO
    assert [str(row) for row in rows] == [f"{path}{place}" for place in places]


TEXT = "One.\n\r\nTwo,\r\n  three.\n \n\nFour."


@pytest.mark.parametrize(
    ("unit", "rows"),
    [
        ("line", [(1, "One."), (3, "Two,"), (4, "  three."), (7, "Four.")]),
        ("paragraph", [(1, "One."), (3, "Two,\r\n  three."), (7, "Four.")]),
        ("file", [(1, TEXT)]),
    ],
)
def test_a_text_is_read_by_the_line_the_paragraph_or_as_a_whole(
    tmp_path: Path, unit: Any, rows: list[tuple[int, str]]
) -> None:
    file = File(written(tmp_path, "a.txt", TEXT), ReadOptions(text_unit=unit))
    assert [(record.line, record.values["text"]) for record in read_file(file, Faults())] == rows


def test_what_a_reader_has_chosen_is_reported(tmp_path: Path) -> None:
    notes: list[str] = []
    read_rows(written(tmp_path, "a.json", json.dumps({"rows": TWO})), {}, say=notes.append)
    read_rows(written(tmp_path, "b.json", LINES), {}, say=notes.append)
    assert [text.split(": ", 1)[1] for text in notes] == [
        "using the rows in 'rows'",
        "read as JSON Lines, because every line is an object",
    ]


PAIR = '["Ann left", {"entities": [[0, 3, "PER"]]}]'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", f"{PAIR}\n{PAIR}\n"),
        ("a.json", f"[{PAIR}, {PAIR}]"),
        ("a.json", f'{{"classes": ["PER"], "annotations": [{PAIR}, {PAIR}]}}'),
    ],
)
def test_a_text_and_its_annotations_are_one_row_as_spacy_has_them(tmp_path: Path, name: str, content: str) -> None:
    notes: list[str] = []
    rows = read_rows(written(tmp_path, name, content), {}, say=notes.append)
    assert [dict(row.values) for row in rows] == [{"text": "Ann left", "entities": [[0, 3, "PER"]]}] * 2
    assert [text.split(": ", 1)[1] for text in notes if "object" in text] == [
        "a row of a text and an object is read as an object with this `text`"
    ]


def test_a_line_of_a_megabyte_is_a_row_like_any_other(tmp_path: Path) -> None:
    long = "word " * 200_000
    for name, content in (
        ("a.jsonl", json.dumps({"text": long}) + "\n"),
        ("a.json", json.dumps([{"text": long}])),
        ("a.csv", f'text\n"{long}"\n'),
        ("a.txt", long + "\n"),
        ("a.parquet", parquet_of(pa.table({"text": [long]}))),
    ):
        assert read_rows(written(tmp_path, name, content), {})[0].values["text"] == long


DEEP = '{"text": ' + "[" * 101 + "]" * 101 + "}"
DEEPER = '{"text": ' + "[" * 100_000
JSONL = [
    ('{"text": "good"}\n{"text": \n', ":2: not JSON: expecting value (character 10 of the line)"),
    ('{"text": "good"}\n{\'text\': "a"}\n', ":2: not JSON: expecting property name enclosed in double quotes"),
    ('{"text": "good"} {"text": "bad"}\n', ":1: not JSON: text after the end of the value (character 18 of the line)"),
    ('{"text": "good\n', ":1: not JSON: unterminated string (character 10 of the line)"),
    ('{"text": "a\tb"}\n', ":1: not JSON: invalid control character"),
    ('{"text": "a"},\n', ":1: not JSON: text after the end of the value"),
    ("[1, 2]\n", ':1: expected an object such as {"text": …}, got a list'),
    ("null\n", ':1: expected an object such as {"text": …}, got null'),
    ('"text"\n', ':1: expected an object such as {"text": …}, got a text'),
    ('[\n{"text": "a"}\n]\n', ":1: not JSON: expecting value (character 2 of the line); name a JSON"),
    ('{"text": "a", "label": 1, "text": "b"}\n', ":1: the key 'text' occurs twice in one object"),
    ('{"a": {"b": 1, "b": 2}}\n', ":1: the key 'b' occurs twice in one object"),
    ('{"text": NaN}\n', ":1: NaN is not JSON; write null or a number"),
    ('{"label": [1, -Infinity]}\n', ":1: -Infinity is not JSON; write null or a number"),
    ('{"label": 1e999}\n', ":1: the number 1e999 is too large"),
    ('{"label": ' + "9" * 5000 + "}\n", ":1: a number with too many digits"),
    ('{"text": ["a \\ud800 b"]}\n', ":1: an escape from \\ud800 to \\udfff is half a character"),
    ('{"\\uDFFF": 1}\n', ":1: an escape from \\ud800 to \\udfff is half a character"),
    (DEEP + "\n", ":1: nested more than 100 deep"),
    (DEEPER + "\n", ":1: nested more than 100 deep"),
    (b'{"text": "good"}\n{"text": "\xff"}\n', ":2: not UTF-8 (byte 11 of the line is 0xff)"),
    (UTF8.encode() + UTF8.encode("gb18030"), ":2: not UTF-8 (byte 11 of the line is 0xba)"),
    (b'{"text": "caf\xe9"}\n', ":1: not UTF-8 (byte 14 of the line is 0xe9)"),
    (b'{"text": "a\0b"}\n', ":1: a NUL character (byte 12 of the line)"),
    (UTF8.encode("utf-16-le"), ": looks like UTF-16LE; set its encoding"),
    (UTF8.encode("utf-16-be"), ": looks like UTF-16BE"),
    ("", ": contains no rows"),
    ("\ufeff", ": contains no rows"),
    ("\n \n\r\n", ": contains no rows"),
]  # fmt: skip
NO_ARRAY = ":1: expected an array of objects, or an object that holds one; this one"
JSON = [
    ("{", ":1: not JSON: expecting value"),
    ("[", ":1: not JSON: expecting value"),
    ('[{"text": "a"}\n', ":2: not JSON: expected ',' or ']'"),
    ('[\n{"text": "a"}\n{"text": "b"}]', ":3: not JSON: expected ',' or ']'"),
    ('[{"text": "a"},\n]', ":2: not JSON: expecting value"),
    ('[{"text": "a"}]\n[]', ":2: not JSON: text after the end of the value"),
    ('[\n{"text": "a"},\n["b"]]', ':3 (row 2): expected an object such as {"text": …}, got a list'),
    ('[{"text": "a"}, null, 3, true]', ":1 (row 2): expected an object such as"),
    ("3", ":1: expected an array of objects, or an object that holds one"),
    ('\n"text"', ":2: expected an array of objects, or an object that holds one"),
    ('{"text": "a", "label": "b"}', f"{NO_ARRAY} holds none; its keys: text, label"),
    ('{"text": ["a", "b"], "label": [1, 2]}', f"{NO_ARRAY} holds none; its keys: text, label"),
    ('{"a": [{"text": "a"}],\n "b": [{"text": "a"}]}', f"{NO_ARRAY} holds several: a, b; write a file for each"),
    ('{"data": [{"text": "a"}], "data": []}', ":1: the key 'data' occurs twice in one object"),
    ('{"data": [{"text": "a"}]', ":1: not JSON: expected ',' or '}'"),
    ('{"data": [{"text": "a"}]} x', ":1: not JSON: text after the end of the value"),
    ('{"data" [{"text": "a"}]}', ":1: not JSON: expected ':' after a key"),
    ('{1: [{"text": "a"}]}', ":1: not JSON: expected a key in quotes"),
    ('[\n{"text": "a", "text": "b"}]', ":2 (row 1): the key 'text' occurs twice in one object"),
    ('[{"text": "a"}, {"text": NaN}]', ":1 (row 2): NaN is not JSON; write null or a number"),
    ('[{"text": "\\ud83d"}]', ":1 (row 1): an escape from \\ud800 to \\udfff is half a character"),
    ('{"text": "a"}\n{"text": "a", "text": "b"}', ":2: the key 'text' occurs twice in one object"),
    ("[" + DEEP + "]", ":1 (row 1): nested more than 100 deep"),
    ("[" * 100_000, ":1: nested more than 100 deep"),
    ('[{"label": ' + "9" * 5000 + "}]", ":1: a number with too many digits"),
    (b'[\n{"text": "\xff"}]', ":2: not UTF-8 (byte 11 of the line is 0xff)"),
    (b'[{"text": "a\0"}]', ":1: a NUL character (byte 13 of the line)"),
    ("[]", ": contains no rows"),
    ("", ": contains no rows"),
]  # fmt: skip
CSV = [
    ("", ": contains no rows"),
    ("text,label\n", ": contains no rows"),
    ("\n\n", ": contains no rows"),
    ("text,label\ngood,x\ngood\n", ":3: 1 cells, but the header has 2: text, label"),
    ("text,label\ngood,x,y\n", ":2: 3 cells, but the header has 2: text, label"),
    ("text,text\ngood,x\n", ":1: two columns of one name in the header: text, text"),
    ("text, text\ngood,x\n", ":1: two columns of one name in the header: text, text"),
    ('text,label\n"good,x\n', ":2: malformed (unexpected end of data); a cell that contains a quote must be quoted"),
    ('text,label\n"good,x\nbad,y\n', ":2: malformed (unexpected end of data, over lines 2 to 3)"),
    ('text,label\n"a" film,x\n', ":2: malformed (',' expected after '\"')"),
    ('text,label\ngood,x\n"bad\n"so" so",y\n', ":3: malformed (',' expected after '\"', over lines 3 to 4)"),
    ("text,label\rgood,x\rbad,y\r", ":1: in the header: malformed (new-line character seen in unquoted field"),
    (b"text,label\ngood\xff,x\n", ":2: not UTF-8 (byte 5 of the line is 0xff)"),
    ("text,label\n好片,x\n".encode("gb18030"), ":2: not UTF-8"),
    (b"t\xffxt,label\ngood,x\n", ":1: in the header: not UTF-8 (byte 2 of the line is 0xff)"),
    (b"text,label\ngood\0,x\n", ":2: a NUL character (byte 5 of the line)"),
    ("text,label\n好片,x\n".encode("utf-16-be"), ": looks like UTF-16BE"),
    ('text,label\n"a\n"b",x\n', ":2: malformed"),
]  # fmt: skip
TSV = [
    ("", ": contains no rows"),
    ("text\tlabel\n", ": contains no rows"),
    ("text\tlabel\ngood\n", ":2: 1 cells, but the header has 2: text, label"),
    ("text\tlabel\ngood\tx\ty\n", ":2: 3 cells, but the header has 2: text, label"),
    ("text\tlabel\n\tgood\tx\n", ":2: 3 cells, but the header has 2: text, label"),
    ("text\ttext\ngood\tx\n", ":1: two columns of one name in the header: text, text"),
    ('text\tlabel\n"good\tx\n', ":2: malformed (unexpected end of data); a cell that contains a quote must be quoted"),
    ('text\tlabel\n"A" film\tx\n', ":2: malformed ('\t' expected after '\"')"),
    ("text\tlabel\rgood\tx\r", ":1: in the header: malformed (new-line character seen in unquoted field"),
    (b"text\tlabel\nb\xe9d\tx\n", ":2: not UTF-8 (byte 2 of the line is 0xe9)"),
    ("文本\t标签\n好片\tx\n".encode("gb18030"), ":1: in the header: not UTF-8 (byte 1 of the line is 0xce)"),
    (b"text\tlabel\ngo\0od\tx\n", ":2: a NUL character (byte 3 of the line)"),
]
TXT = [
    ("", ": contains no rows"),
    ("\ufeff", ": contains no rows"),
    ("\n\n\r\n \t\n", ": contains no rows"),
    (b"good\nb\xe9d\n", ":2: not UTF-8 (byte 2 of the line is 0xe9)"),
    ("好片\n".encode("gb18030"), ":1: not UTF-8 (byte 1 of the line is 0xba)"),
    ("a\n好片\n".encode("big5"), ":2: not UTF-8"),
    ("a\n好片\n".encode()[:-2], ":2: not UTF-8 (byte 4 of the line is 0xe7)"),
    (b"a\nb\xed\xa0\x80c\n", ":2: not UTF-8 (byte 2 of the line is 0xed)"),
    (b"a\n\xc0\xaf\n", ":2: not UTF-8 (byte 1 of the line is 0xc0)"),
    (b"a\nb\0c\n", ":2: a NUL character (byte 2 of the line)"),
    (b"\0" * 500, ":1: a NUL character (byte 1 of the line)"),
    ("good film\n".encode("utf-16-le"), ": looks like UTF-16LE"),
    ("good film\n".encode("utf-16-be"), ": looks like UTF-16BE"),
]
CONLL = [
    ("", ": contains no rows"),
    ("\n\n\n", ": contains no rows"),
    ("-DOCSTART- -X- -X- O\n\n", ": contains no rows"),
    ("EU B-ORG\nrejects\n", ":2: 1 columns, but the file's first word has 2"),
    ("EU B-ORG\n\nrejects VB O\n", ":3: 3 columns, but the file's first word has 2"),
    ("EU\tB-ORG\nrejects  O x\n", ":2: 3 columns, but the file's first word has 2"),
    ("EU\tB-ORG\nGerman call\tO\textra\n", ":2: 3 columns, but the file's first word has 2"),
    ("# text = EU rejects\nEU B-ORG\nrejects\n", ":3: 1 columns, but the file's first word has 2"),
    (b"EU B-ORG\nr\xe9jects O\n", ":2: not UTF-8 (byte 2 of the line is 0xe9)"),
    ("欧盟 B-ORG\n".encode("gb18030"), ":1: not UTF-8"),
    (b"EU B-ORG\nre\0jects O\n", ":2: a NUL character (byte 3 of the line)"),
    ("EU B-ORG\n".encode("utf-16-le"), ": looks like UTF-16LE"),
    ("\ufeff\n", ": contains no rows"),
]
CUT = parquet_of(TABLE)[:-20]
TWICE = pa.table([["a"], ["b"]], names=["text", "text"])
NOT_UTF8 = pa.table({"text": pa.array([b"a", b"\xff"]).view(pa.string())})
SPARED = arrow_of(TABLE)
PARQUET: list[tuple[str | bytes, str]] = [
    ("", ": cannot be read as Parquet (Parquet file size is 0 bytes"),
    ("text,label\ngood,x\n", ": cannot be read as Parquet (Parquet magic bytes not found in footer"),
    (LINES, ": cannot be read as Parquet (Parquet magic bytes not found in footer"),
    ("PAR1", ": cannot be read as Parquet (Parquet file size is 4 bytes"),
    ("PAR1PAR1", ": cannot be read as Parquet ("),
    (b"PAR1\xff\xff\xff\x7fPAR1", ": cannot be read as Parquet ("),
    (b"PAR1" + b"x" * 50 + b"\x20\0\0\0PAR1", ": cannot be read as Parquet ("),
    (parquet_of(TABLE)[:-20], ": cannot be read as Parquet (Parquet magic bytes not found in footer"),
    (parquet_of(TABLE)[20:], ": cannot be read as Parquet ("),
    (b"\0" * 4 + parquet_of(TABLE)[4:300] + b"PAR1", ": cannot be read as Parquet ("),
    (arrow_of(TABLE), ": cannot be read as Parquet (Parquet magic bytes not found in footer"),
    (gzip.compress(parquet_of(TABLE)), ": cannot be read as Parquet (Parquet magic bytes not found in footer"),
    (parquet_of(TABLE.slice(0, 0)), ": contains no rows"),
    (parquet_of(TWICE), ": cannot be read as Parquet (two columns of one name: text, text)"),
    (
        parquet_of(NOT_UTF8),
        ": cannot be read as Parquet (In column 0: Invalid: Invalid UTF8 sequence at string index 1)",
    ),
]
ARROW: list[tuple[str | bytes, str]] = [
    ("", ": cannot be read as Arrow (Tried reading schema message, was null or length 0)"),
    ("text,label\ngood,x\n", ": cannot be read as Arrow ("),
    (LINES, ": cannot be read as Arrow ("),
    ("ARROW1", ": cannot be read as Arrow (File is too small: 6)"),
    ("ARROW1\0\0ARROW1", ": cannot be read as Arrow ("),
    (b"\xff\xff\xff\xff", ": cannot be read as Arrow ("),
    (b"\xff\xff\xff\xff\x10\0\0\0" + b"x" * 16, ": cannot be read as Arrow ("),
    (SPARED[:-20], ": cannot be read as Arrow (Not an Arrow file"),
    (b"ARROW1\0\0" + SPARED[100:], ": cannot be read as Arrow ("),
    (stream_of(TABLE)[:100], ": cannot be read as Arrow (Expected to read"),
    (stream_of(TABLE)[:-60], ": cannot be read as Arrow (Expected"),
    (parquet_of(TABLE), ": cannot be read as Arrow ("),
    (arrow_of(TABLE.slice(0, 0)), ": contains no rows"),
    (arrow_of(TWICE), ": cannot be read as Arrow (two columns of one name: text, text)"),
    (stream_of(NOT_UTF8), ": cannot be read as Arrow (In column 0: Invalid: Invalid UTF8 sequence at string index 1)"),
]
GZ: list[tuple[str | bytes, str]] = [
    ("", ": contains no rows"),
    (LINES, ":1: cannot be read from here on (zlib inflate failed: incorrect header check)"),
    (b"\x1f\x8b", ":1: cannot be read from here on ("),
    (b"\x1f\x8b\x08\0", ":1: cannot be read from here on ("),
    (
        b"\x1f\x8b\x09" + gzip.compress(LINES.encode())[3:],
        ":1: cannot be read from here on (zlib inflate failed: unknown ",
    ),
    (gzip.compress(LINES.encode())[:-12], ":1: cannot be read from here on (Truncated compressed stream)"),
    (gzip.compress(LINES.encode())[:-4], ":1: cannot be read from here on (Truncated compressed stream)"),
    (
        gzip.compress(LINES.encode())[:-8] + b"\0" * 8,
        ":1: cannot be read from here on (zlib inflate failed: incorrect data",
    ),
    (
        gzip.compress(LINES.encode())[:-1] + b"\1",
        ":1: cannot be read from here on (zlib inflate failed: incorrect length",
    ),
    (
        gzip.compress(LINES.encode()) + LINES.encode(),
        ":1: cannot be read from here on (zlib inflate failed: incorrect header",
    ),
    (zstd(LINES.encode()), ":1: cannot be read from here on (zlib inflate failed: incorrect header check)"),
    (gzip.compress(gzip.compress(LINES.encode())), ":1: not UTF-8 (byte 2 of the line is 0x8b)"),
    (gzip.compress(b""), ": contains no rows"),
    (gzip.compress(b'{"text": 1'), ":1: not JSON"),
    (gzip.compress(UTF8.encode("utf-16-le")), ": looks like UTF-16LE"),
]
ZST: list[tuple[str | bytes, str]] = [
    ("", ": contains no rows"),
    (LINES, ":1: cannot be read from here on (ZSTD decompress failed: Unknown frame descriptor)"),
    (b"\x28\xb5\x2f\xfd", ":1: cannot be read from here on (Truncated compressed stream)"),
    (zstd(LINES.encode())[:5], ":1: cannot be read from here on (Truncated compressed stream)"),
    (zstd(LINES.encode())[:-1], ":1: cannot be read from here on (Truncated compressed stream)"),
    (zstd(LINES.encode())[:-10], ":1: cannot be read from here on (Truncated compressed stream)"),
    (
        b"\x29" + zstd(LINES.encode())[1:],
        ":1: cannot be read from here on (ZSTD decompress failed: Unknown frame descriptor)",
    ),
    (
        zstd(LINES.encode()) + b"more",
        ":1: cannot be read from here on (ZSTD decompress failed: Unknown frame descriptor)",
    ),
    (zstd(LINES.encode())[:8] + b"\xff" * 20, ":1: cannot be read from here on ("),
    (
        gzip.compress(LINES.encode()),
        ":1: cannot be read from here on (ZSTD decompress failed: Unknown frame descriptor)",
    ),
    (zstd(zstd(LINES.encode())), ":1: not UTF-8 (byte 2 of the line is 0xb5)"),
    (zstd(b""), ": contains no rows"),
    (zstd(b'{"text": 1'), ":1: not JSON"),
    (zstd(UTF8.encode("utf-16-be")), ": looks like UTF-16BE"),
]
MALFORMED: dict[str, list[tuple[str | bytes, str]]] = {
    "a.jsonl": JSONL,
    "a.json": JSON,
    "a.csv": CSV,
    "a.tsv": TSV,
    "a.txt": TXT,
    "a.conll": CONLL,
    "a.parquet": PARQUET,
    "a.arrow": ARROW,
    "a.jsonl.gz": GZ,
    "a.jsonl.zst": ZST,
}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(name, *case, id=f"{name}-{at}")
        for name, cases in MALFORMED.items()
        for at, case in enumerate(cases)
    ],
)
def test_a_malformed_file_is_an_error_with_its_place_and_stays_as_it_was(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = written(tmp_path, name, content)
    before = path.read_bytes()
    with pytest.raises(DataError) as raised:
        read_rows(path, {})
    assert str(raised.value).startswith(f"{path}{message}")
    assert all(line.startswith(str(path)) for line in str(raised.value).splitlines())
    assert path.read_bytes() == before


def test_each_format_is_tried_with_at_least_twelve_malformed_files() -> None:
    assert {name.removeprefix("a") for name in MALFORMED} >= {format_.endings[0] for format_ in FORMATS.values()} - {
        ".tmx"
    }  # test_parallel_text.py
    assert all(len(cases) >= 12 for cases in MALFORMED.values())


def test_all_malformed_rows_are_reported_at_once_with_their_lines(tmp_path: Path) -> None:
    content = b'text,label\na,x\n\xff,x\nb,x,y\n"a\n\xff",x\nc,"x\ny"z\nd,x\n\0,x\n'
    path = written(tmp_path, "a.csv", content)
    faults = Faults()
    rows = list(read_file(File(path), faults))
    assert [(record.line, record.values["text"]) for record in rows] == [(2, "a"), (9, "d")]
    assert [fault.removeprefix(str(path)).split(" (")[0].split(", but")[0] for fault in faults.first] == [
        ":3: not UTF-8", ":4: 3 cells", ":6: not UTF-8", ":7: malformed", ":10: a NUL character",
    ]  # fmt: skip
    assert (faults.num_rows, faults.are_rows_alone) == (5, True)


def test_a_bad_word_affects_its_sentence_and_no_other(tmp_path: Path) -> None:
    content = b"a O\n\nb O\nc\nd\xff O\ne O\n\nf O\n"
    path = written(tmp_path, "a.conll", content)
    faults = Faults()
    rows = list(read_file(File(path), faults))
    assert [(record.line, record.values["tokens"]) for record in rows] == [(1, ["a"]), (8, ["f"])]
    assert [fault.removeprefix(str(path))[:3] for fault in faults.first] == [":4:", ":5:"]
    assert faults.num_rows == 1


def test_a_bad_line_affects_its_paragraph_and_no_other(tmp_path: Path) -> None:
    file = File(written(tmp_path, "a.txt", b"a\n\nb\nc\xff\n\nd\n"), ReadOptions(text_unit="paragraph"))
    faults = Faults()
    assert [record.values["text"] for record in read_file(file, faults)] == ["a", "d"]
    (fault,) = faults.first
    assert faults.num_rows == 1 and fault.startswith(f"{file.path}:4: not UTF-8 (byte 2 of the line is 0xff)")


def test_a_quote_that_is_never_closed_is_not_a_single_bad_row(tmp_path: Path) -> None:
    faults = Faults()
    file = File(written(tmp_path, "a.csv", 'text\na\n"b\nc\nd\n'))
    assert [record.values["text"] for record in read_file(file, faults)] == ["a"]
    assert not faults.are_rows_alone


def test_what_tables_hold_besides_texts_stays_as_it_is(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", None]), "n": [1.5, float("nan")], "b": [b"\xff", None], "l": [[1], None]})
    first, second = read_rows(written(tmp_path, "a.parquet", parquet_of(table)), {})
    assert first.values == {"text": "a", "n": 1.5, "b": b"\xff", "l": [1]}
    assert (second.values["text"], second.values["l"]) == (None, None)


CONTENTS = {
    ".jsonl": LINES.encode(),
    ".json": ARRAY.encode(),
    ".csv": b'text,label\n"a ""b""\nc",x\n',
    ".tsv": b"text\tlabel\na\tx\n",
    ".parquet": parquet_of(TABLE),
    ".arrow": arrow_of(TABLE),
    ".txt": TEXT.encode(),
    ".conll": b"-DOCSTART- O\n\nEU B-ORG\nrejects O\n\n",
    ".bio": b"EU\tB-ORG\n",
    ".tmx": b'<tmx><body><tu><tuv xml:lang="en"><seg>a &lt; <hi>b</hi></seg></tuv></tu></body></tmx>',
}
PACKED: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}
SPICE = [b'"text":', b"null", b"NaN", b"\\ud800", b"-DOCSTART-", b"ARROW1", b"PAR1", b"\xff" * 4, b"\xef\xbb\xbf"]
SPICE += [bytes([byte]) for byte in b'\n\r\t\0\xff "{}[],:1\\']


@st.composite
def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with a few bytes removed and others inserted."""
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(st.sampled_from(SPICE)) + content[at + draw(st.integers(0, 20)) :]
    return content


@pytest.mark.parametrize("suffix", CONTENTS)
@settings(max_examples=80)
@given(data=st.data())
def test_no_bytes_end_in_anything_but_rows_or_a_data_error(
    suffix: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(PACKED)))
    content = data.draw(
        st.binary(max_size=200)
        | st.lists(st.sampled_from(SPICE), max_size=30).map(b"".join)
        | mutated(CONTENTS[suffix])
    )
    packed = data.draw(st.just(PACKED[kind](content)) | mutated(PACKED[kind](content)))
    path = written(tmp_path_factory.getbasetemp(), f"any{suffix}{kind}", packed)
    faults = Faults()
    unit = data.draw(st.sampled_from(["line", "paragraph", "file"])) if suffix == ".txt" else "line"
    for record in read_file(File(path, ReadOptions(text_unit=unit)), faults):  # type: ignore[arg-type]
        assert isinstance(record.values, dict) and (record.line > 0 or record.item > 0)
    assert all(fault.startswith(str(path)) and fault.encode() for fault in faults.first)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40)
@given(rows=st.lists(st.dictionaries(st.text(), VALUES, max_size=4), min_size=1, max_size=5))
@example(rows=[{"a": "\u2028\x85\x1c"}, {"a": "\ufeff"}, {"": "\U0001f600"}])
def test_json_and_json_lines_give_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for name, text in (
        ("any.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)),
        ("any.json", json.dumps(rows)),
        ("any.json", json.dumps({"rows": rows}, indent=1)),
    ):
        faults = Faults()
        assert [record.values for record in read_file(File(written(folder, name, text)), faults)] == rows
        assert not faults
