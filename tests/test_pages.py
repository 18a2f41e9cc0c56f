"""What the pages name exists: paths of this repository, and the targets of links."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "README.zh-CN.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md")))
FOLDERS = ("benchmarks", "demo", "docs", "ds_configs", "launcher", "recipes", "shardtune", "slurm", "tests", "trainer")
PATH = re.compile(rf"(?:^|[\s(`])((?:{'|'.join(FOLDERS)})/[\w./-]*)", re.MULTILINE)
EXAMPLES = {"recipes/x.yaml"}
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = {path.rstrip(".") for path in PATH.findall((ROOT / page).read_text(encoding="utf-8"))} - EXAMPLES
    assert [path for path in sorted(named) if "NAME" not in path and not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    for target, anchor in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), target
        if anchor:
            assert anchor[1:] in anchors(path), target + anchor


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
