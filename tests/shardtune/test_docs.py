"""The pages about recipes match the schema."""

import json

from shardtune.docs import DOCS_DIR, render_json_schema, render_recipe_page
from shardtune.recipe.counterparts.other_tools import OTHER_COUNTERPARTS
from shardtune.recipe.counterparts.training_arguments import COUNTERPARTS
from shardtune.recipe.explain import all_keys
from shardtune.recipe.schema import Recipe

REFRESH = "run `python -m shardtune.docs`"


def test_the_recipe_page_is_up_to_date() -> None:
    assert (DOCS_DIR / "recipe.md").read_text(encoding="utf-8") == render_recipe_page(), REFRESH


def test_the_json_schema_is_up_to_date() -> None:
    assert (DOCS_DIR / "recipe.schema.json").read_text(encoding="utf-8") == render_json_schema(), REFRESH


def test_the_page_names_every_key_and_every_name_of_other_tools() -> None:
    page = render_recipe_page()
    # Below a section's own keys, a table is for all that may stand under several of them.
    written = [key if key.count(".") == 1 else key.rpartition(".")[2] for key in all_keys(Recipe)]
    assert [key for key in written if f"| `{key}` |" not in page] == []
    assert [name for name in (*COUNTERPARTS, *OTHER_COUNTERPARTS) if f"`{name}`" not in page] == []


def test_every_key_is_documented() -> None:
    sections = json.loads(render_json_schema())["$defs"].values()
    silent = [key for section in sections for key, field in section["properties"].items() if "description" not in field]
    assert set(silent) == {"kind"}  # a task's kind is described by the section around it


def test_the_json_schema_refuses_unknown_keys_as_we_do() -> None:
    schema = json.loads(render_json_schema())
    assert not any(section["additionalProperties"] for section in (schema, *schema["$defs"].values()))
