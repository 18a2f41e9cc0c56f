"""Help pages become pairs of paragraphs: no code, no words that run together, no page in two splits."""

import json
from pathlib import Path

import pytest

from demo.help_texts import Pair, is_translation, pairs, paragraphs, write_splits

PAGE = """
<h1 id="hd_id1">Opening a <b>new</b> file</h1>
<p id="par_id2" class="paragraph">Choose <span>File</span> - <span>Open</span>.</p>
<p id="par_id3" class="code">Sub Main</p>
<p id="par_id4">Press <span>Command</span><span>Ctrl</span>+O.</p>
<p id="par_id5">Twice</p><p id="par_id5">Twice again</p>
<p>No id</p>
"""


def test_a_page_gives_the_paragraphs_that_can_be_used() -> None:
    assert paragraphs(PAGE) == {"hd_id1": "Opening a new file", "par_id2": "Choose File - Open."}


@pytest.mark.parametrize(
    ("english", "translation", "language", "expected"),
    [
        ("Choose the file that you want.", "Choisissez le fichier désiré.", "fr", True),
        ("Choose the file that you want.", "选择所需的文件。", "zh", True),
        ("Choose the file that you want.", "Choose the file that you WANT.", "fr", False),
        ("Choose the file that you want.", "Choose the file, 好。", "zh", False),
        ("Too short.", "Trop court.", "fr", False),
        ("1 + 2 = 3 ; 4 + 5 = 9", "1 + 2 = 3 et 4 + 5 = 9", "fr", False),
        ("Choose the file that you want.", "", "fr", False),
    ],
)
def test_only_what_looks_like_a_translation_is_kept(
    english: str, translation: str, language: str, expected: bool
) -> None:
    assert is_translation(english, translation, language) is expected


def test_paragraphs_meet_by_page_and_id_and_no_text_comes_twice() -> None:
    english = {("a", "1"): "Choose the file that you want.", ("b", "9"): "choose the file that you want."}
    french = {("a", "1"): "Choisissez le fichier désiré.", ("b", "9"): "Choisissez le fichier désiré."}
    assert list(pairs(english, french, "fr")) == [
        Pair("a", "Choose the file that you want.", "Choisissez le fichier désiré.")
    ]


def test_a_page_is_in_one_split_as_a_whole(tmp_path: Path) -> None:
    write_splits((Pair(f"page{at % 100}", f"text {at}", f"texte {at}") for at in range(300)), "fr", tmp_path)
    pages = {
        split: {json.loads(line)["page"] for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()}
        for split in ("train", "dev", "test")
    }
    assert sum(map(len, pages.values())) == 100 and len(set.union(*pages.values())) == 100
    assert len(pages["train"]) > 80
