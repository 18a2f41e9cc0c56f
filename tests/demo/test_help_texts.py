"""The help texts are readable text in both languages, and a page is in one split."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from demo import help_texts
from demo.fetch import CACHE, FetchError
from demo.help_texts import (
    PACKAGES,
    SPLITS,
    Pair,
    fetch_packages,
    is_translation,
    pairs,
    paragraphs,
    prepare,
    write_splits,
)

PAGE = """<html><body>
<h1 id="hd_id1" dir="auto"><a name="h1"></a>Date &amp; Time</h1>
<p id="par_id2" class="paragraph">Choose <span class="emph">Insert</span> - <span>Function</span>
  &#8211; or press<br>a key.</p>
<p id="par_id3" class="paragraph">Hold down <span>Command</span><span>Ctrl</span> and click.</p>
<p id="par_id4" class="code">Sub Main<br>End Sub</p>
<p class="paragraph">no id</p>
<p id="par_id5">twice</p><p id="par_id5">twice</p>
<p id="par_id6">在「<span>选项</span>」下</p>
<p id="par_id7">L'<span>onglet</span></p>
</body></html>"""


def test_paragraphs_are_the_usable_texts() -> None:
    assert paragraphs(PAGE) == {
        "hd_id1": "Date & Time",
        "par_id2": "Choose Insert - Function – or press a key.",
        "par_id6": "在「选项」下",
        "par_id7": "L'onglet",
    }


@pytest.mark.parametrize(
    ("english", "translation", "language", "expected"),
    [
        ("Scrolls text from left to right.", "Fait défiler le texte de gauche à droite.", "fr", True),
        ("Scrolls text from left to right.", "从左向右滚动文字。", "zh", True),
        ("Scrolls text from left to right.", "Scrolls Text from left to right.", "fr", False),
        ("Scrolls text from left to right.", "This text in 中文 is in English still, but for a word.", "zh", False),
        ("Scrolls text to right.", "Fait défiler.", "fr", False),
        ("word " * 41, "mot " * 41, "fr", False),
        ("=SLN(50000;3,500;84) = 553.57 of 100 200 300", "=AMORLIN(50000;3500;84) = 553,57 de 100 200", "fr", False),
        ("Scrolls text from left to right.", "", "fr", False),
        ("Scrolls text from left to right.", "Fait", "fr", False),
    ],
)
def test_what_is_a_translation(english: str, translation: str, language: str, expected: bool) -> None:
    assert is_translation(english, translation, language) is expected


def test_an_english_text_occurs_once_with_the_translation_of_its_paragraph() -> None:
    english = {
        ("a", "1"): "Sets the width of cells.",
        ("b", "1"): "Sets the width of Cells.",
        ("b", "2"): "One two three four five",
    }
    french = {("a", "1"): "Définit la largeur.", ("b", "1"): "Une autre largeur.", ("c", "2"): "Un deux trois quatre"}
    assert list(pairs(english, french, "fr")) == [Pair("a", "Sets the width of cells.", "Définit la largeur.")]


def test_all_paragraphs_of_a_page_are_in_one_split(tmp_path: Path) -> None:
    write_splits((Pair(f"page{at % 100}", f"text {at}", f"texte {at}") for at in range(300)), "fr", tmp_path)
    pages = {
        split: {json.loads(line)["page"] for line in (tmp_path / f"{split}.jsonl").read_text().splitlines()}
        for split in ("train", "dev", "test")
    }
    assert sum(map(len, pages.values())) == 100 and len(set.union(*pages.values())) == 100
    assert len(pages["train"]) > 80


def test_a_machine_without_apt_is_told_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(FetchError, match=f"no apt-get and dpkg-deb.*`apt-get download.*into {tmp_path}"):
        fetch_packages(tmp_path)


def test_the_error_of_apt_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess([], 100, "", "Reading\nE: Unable to locate package libreoffice-help-fr\n")

    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", fails)
    with pytest.raises(
        FetchError, match=r"apt-get update` failed \(Unable to locate package libreoffice-help-fr\); alternatively, on"
    ):
        fetch_packages(tmp_path)


def test_existing_packages_are_used_all_of_one_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was started"))
    for package in PACKAGES.values():
        (tmp_path / f"{package}_7.4_all.deb").touch()
    (tmp_path / "libreoffice-help-fr_7.5_all.deb").touch()
    assert {path.name.partition("_")[2] for path in fetch_packages(tmp_path).values()} == {"7.4_all.deb"}


def test_a_package_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.deb").write_bytes(b"not a package")
    with pytest.raises(FetchError, match=r"bad\.deb cannot be read \(.*\); delete it"):
        help_texts.read_help(tmp_path / "bad.deb", tmp_path, "fr")


@pytest.fixture(scope="module")
def real() -> Path | None:
    """The folder of the real texts; None on a machine without apt-get, where a FetchError says so."""
    if shutil.which("apt-get") is None:
        with pytest.raises(FetchError, match="no apt-get"):
            prepare()
        return None
    prepare()
    return CACHE / "demo" / "help_texts"


@pytest.mark.parametrize(("language", "least"), [("fr", 15_000), ("zh", 10_000)])
def test_the_real_splits_share_neither_a_text_nor_a_page(real: Path | None, language: str, least: int) -> None:
    if real is None:
        return
    rows = {
        split: [json.loads(line) for line in (real / f"en-{language}" / f"{split}.jsonl").open(encoding="utf-8")]
        for split in ("train", *SPLITS)
    }
    for key in (lambda row: row["page"], lambda row: row["translation"]["en"].casefold()):
        keys = [{key(row) for row in split} for split in rows.values()]
        assert sum(map(len, keys)) == len(set.union(*keys))
    assert len(rows["train"]) > least
    assert all(200 < len(rows[split]) < 900 for split in SPLITS)
    assert all(row["translation"].keys() == {"en", language} for split in rows.values() for row in split)


def test_preparing_again_reads_no_package(real: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if real is None:
        return
    before = prepare()
    monkeypatch.setattr("demo.help_texts.read_help", lambda *_: pytest.fail("a package was read again"))
    assert prepare() == before
    assert f"{real.name}/en-fr/test.jsonl" in before
    assert f"\n{PACKAGES['fr']}_" in (real / "README.txt").read_text()
