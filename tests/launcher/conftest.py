"""What the tests of plans stand in: a folder with a recipe, x.yaml, and its data."""

from pathlib import Path

import pytest

RECIPE = """
task: {kind: classification}
model: {path: org/name}
data: {train: train.csv}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(RECIPE)
    (tmp_path / "train.csv").write_text("text,label\na,b\n")
    return tmp_path
