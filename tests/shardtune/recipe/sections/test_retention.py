"""Held-out rows in a recipe: their keys and their paths, each fault with its line."""

from pathlib import Path

import pytest

from shardtune.errors import ConfigError
from shardtune.recipe.load import learning_hash, load_recipe, parse_recipe, render_recipe
from shardtune.recipe.paths import local_folders

RECIPE = """\
task: {kind: classification}
model: {path: ./model}
data: {train: rows.jsonl, dev: rows.jsonl}
retention:
  sets:
    topics:
      task: {kind: classification}
      data: rows.jsonl
      model: model
    general: {task: {kind: language_modeling}, data: [{path: rows.jsonl}], max_tokens: 32}
  max_drop: {topics: 0.02}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_paths_of_sets_are_made_absolute_and_the_recipe_reads_back(folder: Path) -> None:
    recipe = load_recipe(folder / "recipe.yaml")
    sets = recipe.retention.sets
    assert sets["topics"].data == str(folder / "rows.jsonl") and sets["topics"].model == str(folder / "model")
    assert [source.path for source in sets["general"].sources] == [str(folder / "rows.jsonl")]
    assert parse_recipe(render_recipe(recipe)) == recipe
    assert set(local_folders(recipe)) >= {folder, folder / "model"}
    assert (recipe.retention.limit("topics"), recipe.retention.limit("general")) == (0.02, None)


def test_what_is_only_measured_changes_no_run_directory(folder: Path) -> None:
    whole, plain = load_recipe(folder / "recipe.yaml"), load_recipe(folder / "recipe.yaml", ["retention=null"])
    assert learning_hash(whole) == learning_hash(plain)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "data: rows.jsonl\n",
            "data: raws.jsonl\n",
            r"recipe\.yaml:8: .*no such file: 'raws\.jsonl'.*did you mean 'rows",
        ),
        ("[{path: rows", "[{path: raws", r"recipe\.yaml:10: .*no such file: 'raws\.jsonl'"),
        ("model: model\n", "model: ./gone\n", r"recipe\.yaml:9: .*no such folder: '\./gone'"),
        ("{kind: language_modeling}", "{kind: language}", r"recipe\.yaml:10: .*kind: got 'language'; legal: classifi"),
        (
            "{kind: language_modeling}",
            "{kind: chat, x: 1}",
            r"recipe\.yaml:10: retention\.sets\.general\.task\.x: unkno",
        ),
        ("max_tokens: 32", "max_token: 32", r"recipe\.yaml:10: .*max_token: unknown key; did you mean 'max_tokens'"),
        ("    topics:\n", "    my topics:\n", r"'my topics': a name consists of letters"),
        ("[{path: rows.jsonl}]", "[]", r"recipe\.yaml:10: .*the list of sources is empty"),
        ("rows.jsonl}]", "rows.jsonl, weight: 2}]", r"recipe\.yaml:10: .*has a weight, but only training rows"),
        ("[{path: rows.jsonl}]", "'hf:a/b'", r"recipe\.yaml:10: .*name the split that was held out"),
        ("{topics: 0.02}", "often", r"recipe\.yaml:11: .*expected a number, got 'often'"),
    ],
)
def test_a_fault_names_its_line_and_its_key(folder: Path, old: str, new: str, fault: str) -> None:
    assert old in RECIPE
    (folder / "recipe.yaml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ConfigError, match=fault):
        load_recipe(folder / "recipe.yaml")
