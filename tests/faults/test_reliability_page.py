"""docs/reliability.md names existing tests for every fault that it promises something about."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def faults() -> list[tuple[str, ...]]:
    """The rows of the table of faults: fault, what happens, what is lost, and the link to its tests."""
    table = PAGE.partition("| fault | what happens | what is lost | tests |\n")[2].partition("\n\n")[0]
    _, *rows = table.splitlines()
    return [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows]


def named_tests() -> dict[str, list[str]]:
    """The list at the end of the page: the short name of a fault -> the tests of it."""
    items = re.split(r"^- ", PAGE.partition("## Tests\n")[2], flags=re.MULTILINE)[1:]
    return {item.partition("**")[2].partition("**")[0]: re.findall(r"`(\w+)`", item) for item in items}


def test_every_fault_in_the_table_says_what_is_lost_and_links_to_its_tests() -> None:
    assert len(faults()) > 15
    names = []
    for fault, happens, lost, link in faults():
        assert fault and happens and lost, fault
        match = re.fullmatch(r"\[([\w-]+)\]\(#tests\)", link)
        assert match, f"{fault}: nothing tests it"
        names.append(match[1])
    assert names == list(named_tests())


def test_every_test_that_the_page_names_exists_once() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    existing = Counter(name for text in sources for name in re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
    for fault, names in named_tests().items():
        assert names, f"{fault}: nothing tests it"
        assert {name: existing[name] for name in names} == dict.fromkeys(names, 1), fault
