"""What docs/reliability.md says is tested is tested by what it names."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_fault_in_the_table_says_what_is_lost_and_names_tests_that_there_are() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    there = Counter(name for text in sources for name in re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.partition("| fault | what happens | what is lost | tested by |\n")[2].partition("\n\n")[0]
    _, *rows = table.splitlines()
    assert len(rows) > 15
    for row in rows:
        fault, happens, lost, tested = (cell.strip() for cell in row.strip("|").split(" | "))
        assert fault and happens and lost, row
        names = re.findall(r"`(\w+)`", tested)
        assert names, f"{fault}: nothing tests it"
        assert {name: there[name] for name in names} == dict.fromkeys(names, 1), fault
