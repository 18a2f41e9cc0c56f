"""Every recipe that docs/data.md shows reads the files that it shows."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardtune.recipe.load import load_recipe
from shardtune.trainer.data.prepare.splits import read_splits
from shardtune.trainer.data.prepare.work_queue import WorkQueue

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
FILE = re.compile(r"^\*\*`(?P<name>[^`]+)`\*\*\n\n```\w*\n(?P<text>.*?)```", re.MULTILINE | re.DOTALL)
RECIPE = re.compile(r"^```yaml\n(?P<text>.*?)```", re.MULTILINE | re.DOTALL)


def entries() -> Iterator[Any]:
    for section in re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title = section.splitlines()[0]
        (recipe,) = RECIPE.findall(section)
        yield pytest.param(dict(FILE.findall(section)), recipe, id=title)


@pytest.mark.parametrize(("files", "recipe"), list(entries()))
def test_every_recipe_of_the_gallery_reads_its_file(
    files: dict[str, str], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert files
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{recipe}model: {{path: owner/name}}\n", encoding="utf-8")
    notes: list[str] = []
    splits = read_splits(load_recipe(path), notes.append, WorkQueue(tmp_path / "work"))
    assert sum(map(len, splits.rows.values())) == sum(rows_in(name, text) for name, text in files.items())


def rows_in(name: str, text: str) -> int:
    """The number of rows in a file that the page shows."""
    lines = len(text.strip().splitlines())
    if "/" in name:  # in a folder per class
        return 1
    match Path(name).suffix:
        case ".csv" | ".tsv":
            return lines - 1
        case ".conll" | ".tmx":
            return 1
        case ".zh":  # the second file of a pair
            return 0
    return lines
