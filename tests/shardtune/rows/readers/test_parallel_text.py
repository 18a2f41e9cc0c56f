"""Parallel text: every unit and every pair of lines is a row, or a fault with its file and line."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardtune.errors import ConfigError, DataError
from shardtune.recipe.load import load_recipe
from shardtune.rows.input_file import File
from shardtune.rows.readers.parallel_text import read_aligned, read_tmx, sides_of
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import read_rows
from shardtune.rows.source_files import file_digest

TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4">
  <header srclang="en" segtype="sentence" datatype="html" o-tmf="x" adminlang="en"/>
  <body>{units}</body>
</tmx>
"""
UNIT = '<tu><tuv xml:lang="en"><seg>{0}</seg></tuv><tuv xml:lang="fr"><seg>{1}</seg></tuv></tu>'


def tmx(*units: str, encoding: str = "UTF-8") -> str:
    """A document of these units, the first one on line 6."""
    return TMX.format(encoding=encoding, units="".join(f"\n{unit}" for unit in units))


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def values(path: Path) -> list[dict[str, Any]]:
    return [dict(row.values) for row in read_rows(path, {})]


# TMX


def test_a_unit_is_a_row_that_knows_its_line_and_its_number(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tmx", tmx(UNIT.format("a", "un"), UNIT.format("b", "deux") + UNIT.format("c", "trois")))
    rows = read_rows(path, {})
    assert [row.values for row in rows] == [
        {"en": "a", "fr": "un"},
        {"en": "b", "fr": "deux"},
        {"en": "c", "fr": "trois"},
    ]
    assert [str(row) for row in rows] == [f"{path}:6 (row 1)", f"{path}:7 (row 2)", f"{path}:7 (row 3)"]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("R&amp;D &lt;b&gt; &#233;t&#xE9; <![CDATA[a < b]]>", "R&D <b> été a < b"),
        ('Press <bpt i="1">&lt;b&gt;</bpt>Enter<ept i="1">&lt;/b&gt;</ept>.', "Press Enter."),
        ('A <ph x="1">&lt;img alt="<sub>hidden</sub>"/></ph>picture', "A picture"),
        ("a <hi>bold <it>i</it>word</hi>, twice", "a bold word, twice"),
        ("\n      over\n      two lines\n    ", "over two lines"),
        ("这部电影  很好", "这部电影  很好"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_a_text_is_read_without_markup(tmp_path: Path, text: str, read: str) -> None:
    assert values(written(tmp_path, "a.tmx", tmx(UNIT.format(text, "un")))) == [{"en": read, "fr": "un"}]


@pytest.mark.parametrize(
    "unit",
    [
        '<tu tuid="1" srclang="en"><note>x</note><prop type="p">y</prop>{0}</tu>',
        "<tu>{0}<!-- a comment --><?pi x?></tu>",
    ],
)
def test_other_elements_of_a_unit_are_ignored(tmp_path: Path, unit: str) -> None:
    sides = (
        '<tuv xml:lang="en-US" creationid="me"><prop type="q">z</prop><seg>a</seg></tuv>\n'
        '<tuv lang="fr"><note>n</note><seg>un</seg></tuv><tuv xml:lang="zh-CN"><seg>一</seg></tuv>'
    )
    assert values(written(tmp_path, "a.tmx", tmx(unit.format(sides)))) == [{"en-US": "a", "fr": "un", "zh-CN": "一"}]


@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16", "ISO-8859-1", "windows-1252"])
def test_the_encoding_is_the_declared_one(tmp_path: Path, encoding: str) -> None:
    content = tmx(UNIT.format("a", "été"), encoding=encoding).encode(encoding)
    assert values(written(tmp_path, "a.tmx", content)) == [{"en": "a", "fr": "été"}]


def test_a_large_memory_is_read_in_chunks_also_compressed(tmp_path: Path) -> None:
    content = tmx(*(UNIT.format(f"number {at}", f"numéro {at}" * 20) for at in range(3000))).encode()
    path = written(tmp_path, "a.tmx.gz", gzip.compress(content))
    rows = values(path)
    assert len(rows) == 3000
    assert rows[-1]["en"] == "number 2999"
    cut = written(tmp_path, "b.tmx.gz", gzip.compress(content)[:-9000])
    with pytest.raises(DataError, match=r"b\.tmx\.gz"):
        read_rows(cut, {})


BOMB = '<!DOCTYPE tmx [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n<tmx><body/></tmx>'
MALFORMED_TMX = [
    ("", "a.tmx:1: not XML from here on (no element found)"),
    ("hello", "a.tmx:1: not XML from here on (syntax error)"),
    ("<html><body/></html>", "a.tmx:1: expected a <tmx> document, got <html>"),
    (tmx(UNIT.format("a", "b"))[:-8], "a.tmx:6: not XML from here on (no element found)"),
    (tmx(UNIT.format("a", "b"), "<tu></body>"), "a.tmx:7: not XML from here on (mismatched tag)"),
    (tmx(UNIT.format("a & b", "c")), "a.tmx:6: not XML from here on (not well-formed (invalid token))"),
    (tmx(UNIT.format("a", "b")) + "<more/>", "a.tmx:8: not XML from here on (junk after document element)"),
    (tmx(UNIT.format("a\0", "b")), "a.tmx:6: not XML from here on (not well-formed (invalid token))"),
    (tmx(UNIT.format("a", "&#2;")), "a.tmx:6: not XML from here on (reference to invalid character number)"),
    (tmx().encode() + b"\xff", "a.tmx:7: not XML from here on (not well-formed (invalid token))"),
    (tmx(UNIT.format("é", "b"), encoding="klingon"), "a.tmx:1: "),
    (tmx(UNIT.format("é", "b"), encoding="gb18030"), "a.tmx:1: the encoding cannot be read"),
    (BOMB, "a.tmx:1: declares the entity 'a'; replace it with its text"),
    (BOMB.replace('"aaaa"', 'SYSTEM "file:///etc/passwd"'), "a.tmx:1: declares the entity 'a'"),
    (tmx(UNIT.format("a&nbsp;b", "c")), "a.tmx:6: unknown entity &nbsp;"),
    (tmx("<tu>" + UNIT.format("a", "b") + "</tu>"), "a.tmx:6: a <tu> within a <tu>"),
    (tmx("<tu></tu>"), "a.tmx:6 (row 1): a <tu> without any text"),
    (tmx(UNIT.format("a", "b"), UNIT.format("c", " \n ")), "a.tmx:8 (row 2): the text in fr is blank"),
    (tmx(UNIT.format("a", "b").replace('"fr"', '"en"')), "a.tmx:6 (row 1): two texts in en"),
    (tmx(UNIT.format("a", "b").replace(' xml:lang="fr"', "")), "a.tmx:6 (row 1): a <tuv> without xml:lang"),
    (tmx(UNIT.format("a", "b").replace("<seg>b</seg>", "")), "a.tmx:6 (row 1): 0 <seg> in a <tuv>; expected one"),
    (tmx(UNIT.format("a", "b</seg><seg>c")), "a.tmx:6 (row 1): 2 <seg> in a <tuv>; expected one"),
    (tmx(), "a.tmx: contains no rows"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED_TMX)
def test_a_malformed_memory_is_reported_with_its_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = written(tmp_path, "a.tmx", content)
    with pytest.raises(DataError) as raised:
        read_rows(path, {})
    assert str(raised.value).startswith(f"{tmp_path}/{message}")


def test_bad_units_can_be_skipped_and_a_broken_document_cannot(tmp_path: Path) -> None:
    faults = Faults()
    bad = tmx(UNIT.format("a", " "), UNIT.format("b", "deux"), "<tu/>")
    rows = list(read_tmx(File(written(tmp_path, "a.tmx", bad)), faults))
    assert [row.values for row in rows] == [{"en": "b", "fr": "deux"}]
    assert (faults.are_rows_alone, faults.num_rows) == (True, 2)
    rows = list(read_tmx(File(written(tmp_path, "b.tmx", tmx(UNIT.format("a", "un")) + "<")), faults))
    assert [row.values for row in rows] == [{"en": "a", "fr": "un"}]
    assert not faults.are_rows_alone


def test_no_other_file_is_ever_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "tmx14.dtd", '<!ENTITY x "from the outside">')
    path = written(tmp_path, "a.tmx", tmx(UNIT.format("a", "un")))
    opened: list[Path] = []
    really_open = Path.open

    def noted(self: Path, mode: str) -> Any:
        opened.append(self)
        return really_open(self, mode)

    monkeypatch.setattr(Path, "open", noted)
    assert len(read_rows(path, {})) == 1
    assert opened == [path]


# Pairs of files


def pair(folder: Path, english: str | bytes, french: str | bytes, name: str = "corpus.{en,fr}") -> Path:
    for side, content in (("en", english), ("fr", french)):
        written(folder, name.replace("{en,fr}", side), content)
    return folder / name


@pytest.mark.parametrize("name", ["corpus.{en,fr}", "train.{en,fr}.txt", "{en,fr}", "a-{en,fr}-b"])
def test_two_files_are_read_side_by_side(tmp_path: Path, name: str) -> None:
    path = pair(tmp_path, "\ufeffa film\r\n\r\n it's\u2028over \n", "un film\n\n   c'est\tfini\x85", name)
    rows = read_rows(path, {})
    assert [dict(row.values) for row in rows] == [
        {"en": "a film", "fr": "un film"},
        {"en": "it's\u2028over", "fr": "c'est\tfini"},
    ]
    assert [str(row) for row in rows] == [f"{path}:1", f"{path}:3"]


def test_compressed_sides_are_read_too_and_columns_are_renamed(tmp_path: Path) -> None:
    path = pair(tmp_path, gzip.compress(b"a\nb\n"), gzip.compress(b"un\ndeux\n"), "corpus.{en,fr}.gz")
    rows = read_rows(path, {"source": "en", "target": "fr"})
    assert [row.values for row in rows] == [{"source": "a", "target": "un"}, {"source": "b", "target": "deux"}]


def test_the_digest_of_a_pair_is_that_of_both_sides(tmp_path: Path) -> None:
    path = pair(tmp_path, "a\n", "un\n")
    before = file_digest(path)
    (tmp_path / "corpus.fr").write_text("deux\n")
    assert file_digest(path) != before
    (tmp_path / "corpus.fr").write_text("un\n")
    assert file_digest(path) == before


UTF16 = "un film\nun\n".encode("utf-16-le")
MALFORMED_PAIRS: list[tuple[str | bytes | None, str | bytes | None, str]] = [
    (
        "a\nb\nc\n",
        "un\ndeux\n",
        "corpus.{en,fr}: different numbers of lines (corpus.en has 3, corpus.fr has 2)",
    ),
    (
        "a\n",
        "un\n" * 1234,
        "corpus.{en,fr}: different numbers of lines (corpus.en has 1, corpus.fr has 1,234)",
    ),
    (
        "a\nb\n",
        "un\ndeux\n\n",
        "corpus.{en,fr}: different numbers of lines (corpus.en has 2, corpus.fr has 3)",
    ),
    ("a\n", "", "corpus.{en,fr}: different numbers of lines (corpus.en has 1, corpus.fr has 0)"),
    ("", "", "corpus.{en,fr}: contains no rows"),
    ("\n \n", "\n\t\n", "corpus.{en,fr}: contains no rows"),
    ("a\nb\n", "un\n  \n", "corpus.fr:2: blank, but the other side is not"),
    ("\nb\n", "un\ndeux\n", "corpus.en:1: blank, but the other side is not"),
    (b"a\nb\xff\n", "un\ndeux\n", "corpus.en:2: not UTF-8 (byte 2 of the line is 0xff)"),
    ("a\nb\n", "un\nde\0ux\n", "corpus.fr:2: a NUL character (byte 3 of the line)"),
    ("a\nb\n", UTF16, "corpus.fr: looks like UTF-16LE; set its encoding"),
    ("été\n".encode("latin-1"), "un\n", "corpus.en:1: not UTF-8 (byte 1 of the line is 0xe9)"),
    ("a\n", None, "corpus.{en,fr}: no such file: "),
    (None, "un\n", "corpus.{en,fr}: no such file: "),
    (None, None, "corpus.{en,fr}: no such file: "),
]


@pytest.mark.parametrize(("english", "french", "message"), MALFORMED_PAIRS)
def test_a_malformed_pair_is_reported_with_its_file_and_line(
    tmp_path: Path, english: str | bytes | None, french: str | bytes | None, message: str
) -> None:
    for side, content in (("en", english), ("fr", french)):
        if content is not None:
            written(tmp_path, f"corpus.{side}", content)
    with pytest.raises(DataError) as raised:
        read_rows(tmp_path / "corpus.{en,fr}", {})
    assert str(raised.value).startswith(f"{tmp_path}/{message}")


def test_bad_lines_can_be_skipped_and_missing_ones_cannot(tmp_path: Path) -> None:
    faults = Faults()
    path = pair(tmp_path, b"a\n\xff\nc\n\n", b"un\n\xffdeux\n\nquatre\n")
    assert [row.values for row in read_aligned(File(path), faults)] == [{"en": "a", "fr": "un"}]
    assert (faults.are_rows_alone, faults.num_rows) == (True, 3)
    list(read_aligned(File(pair(tmp_path, "a\n", "un\ndeux\n")), faults))
    assert not faults.are_rows_alone


NO_PAIRS = ["a.jsonl", "a.{en}", "a.{en,en}", "a.{en,fr,de}", "a.{,fr}", "{a}.{en,fr}", "a.{en,fr"]


@pytest.mark.parametrize("name", NO_PAIRS)
def test_what_is_not_a_pair_is_not_read_as_one(name: str) -> None:
    assert sides_of(Path("folder", name)) == {}


def test_a_file_with_exactly_that_name_is_not_a_pair(tmp_path: Path) -> None:
    assert sides_of(written(tmp_path, "a.{en,fr}", "x")) == {}


def test_a_recipe_names_a_pair_and_its_missing_side_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pair(tmp_path, "a\n", "un\n", "c.{en,fr}")
    content = 'task: {kind: translation}\nmodel: {path: org/name}\ndata:\n  train: "c.{en,fr}"\n'
    recipe = written(tmp_path, "r.yaml", content)
    assert [source.path for source in load_recipe(recipe).data.sources("train")] == [str(path)]
    (tmp_path / "c.fr").unlink()
    with pytest.raises(ConfigError) as raised:
        load_recipe(recipe)
    assert str(raised.value) == (
        f"{recipe}:4: data.train: 'c.{{en,fr}}': no such file: {tmp_path}/c.fr (braces stand for a pair of files)"
    )


# Whatever is in the files


WITHIN = st.binary(max_size=60).map(lambda text: tmx(UNIT).encode().replace(b"{0}", text))


@given(content=st.binary(max_size=300) | WITHIN)
def test_any_bytes_give_rows_of_text_or_a_fault(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    written(folder, "any.en", "a\nb\n")
    for path in (written(folder, "any.tmx", content), written(folder, "any.fr", content).with_name("any.{en,fr}")):
        try:
            rows = read_rows(path, {})
        except DataError as error:
            assert str(error).startswith(str(folder))
        else:
            assert rows
            assert all(isinstance(text, str) and text for row in rows for text in row.values.values())


TAGS = ["<tmx>", "</tmx>", "<body>", "<tu>", "</tu>", '<tuv xml:lang="en">', '<tuv lang="fr">', "</tuv>", "<seg>"]
MORE = ["</seg>", "<ph>", "</ph>", "<hi>", "</hi>", "text", "\n", "&amp;", "&x;"]


@given(pieces=st.lists(st.sampled_from([*TAGS, *MORE]), max_size=40))
def test_any_order_of_tags_gives_rows_of_text_or_a_fault(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    faults = Faults()
    path = written(tmp_path_factory.getbasetemp(), "tags.tmx", "<tmx>" + "".join(pieces) + "</tmx>")
    for record in read_tmx(File(path), faults):
        assert record.values
        assert all(isinstance(text, str) and text for text in record.values.values())
