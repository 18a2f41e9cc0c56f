"""The page's files: each text in both languages, nothing from elsewhere, and no way for a run's text to become code."""

import re
from pathlib import Path

STATIC = Path(__file__).parents[3] / "launcher/dashboard/static"
SCRIPTS = sorted((STATIC / "app").rglob("*.js"))
CODE = {path: path.read_text(encoding="utf-8") for path in SCRIPTS if path.parent.name != "text"}
OWN = [*SCRIPTS, *(STATIC / "style").glob("*.css"), STATIC / "index.html", STATIC / "icon.svg"]


def texts(language: str) -> dict[str, str]:
    source = (STATIC / f"app/text/{language}.js").read_text(encoding="utf-8")
    return dict(re.findall(r'^  "([^"]+)": "((?:[^"\\]|\\.)*)",$', source, re.MULTILINE))


def test_both_languages_have_the_same_texts_with_the_same_holes() -> None:
    english, chinese = texts("en"), texts("zh")
    assert english.keys() == chinese.keys() and len(english) > 100
    holes = re.compile(r"\{\w+\}")
    assert not [key for key in english if sorted(holes.findall(english[key])) != sorted(holes.findall(chinese[key]))]


def test_each_text_that_is_asked_for_is_there_and_each_that_is_there_is_asked_for() -> None:
    code, known = "".join(CODE.values()), texts("en").keys()
    asked = set(re.findall(r'\bt\("([^"]+)"', code)) | set(re.findall(r'"(key\.\w+)"', code))
    families = tuple(re.findall(r"\bt\(`([\w.]+)\$", code))  # t(`state.${state}`)
    assert asked - known == set()
    assert [key for key in known - asked if not key.startswith(families)] == []


def test_texts_never_become_markup_or_code() -> None:
    unsafe = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\(|new Function")
    assert not [path for path, code in CODE.items() if unsafe.search(code)]
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\bstyle=|\bon\w+=|<script(?![^>]*\bsrc=)", page)


def test_nothing_comes_from_elsewhere() -> None:
    allowed = "http://www.w3.org/2000/svg"  # a name, which nobody asks
    for path in OWN:
        found = re.findall(r"(?:https?:)?//[\w.-]+\.\w[^\s\"')]*", path.read_text(encoding="utf-8"))
        assert set(found) <= {allowed}, path


def test_no_module_is_longer_than_a_glance_takes() -> None:
    assert {path.name: lines for path, code in CODE.items() if (lines := code.count("\n")) > 250} == {}


def test_the_page_asks_for_all_modules_at_once() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|rel="modulepreload" href)="/static/(app/[^"]+)"', page))
    assert named == {path.relative_to(STATIC).as_posix() for path in SCRIPTS}
