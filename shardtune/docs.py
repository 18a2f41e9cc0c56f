"""The pages that describe recipes, generated from the schema: docs/recipe.md and docs/recipe.schema.json.

`python -m shardtune.docs` writes both; a test fails if they are out of date.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import BaseMetadata, Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from shardtune.ds_config.keys import IGNORED, OWNED_BY_RECIPE, REFUSED
from shardtune.recipe.counterparts.other_tools import OTHER_TOOLS
from shardtune.recipe.counterparts.training_arguments import TRAINING_ARGUMENTS, Names
from shardtune.recipe.explain import sections_in
from shardtune.recipe.schema import LEARNING_SECTIONS, NOT_LEARNED, Recipe
from shardtune.recipe.strategies import strategies
from shardtune.section import Section

DOCS_DIR = Path(__file__).resolve().parents[1] / "docs"

_INTRO = """\
# The recipe

<!-- Written by `python -m shardtune.docs` from the sections in shardtune/recipe; edit there. -->

A recipe is a YAML file that defines what is learned, and how. Only `task.kind`, `model.path` and `data.train` are
required:

```yaml
# yaml-language-server: $schema=../docs/recipe.schema.json
task:
  kind: classification
model:
  path: bert-base-chinese
data:
  train: data/train.jsonl
  dev: data/dev.jsonl
optim:
  lr: 2e-5
```

With the first line, editors complete and check the keys (VS Code with its YAML extension, and any other editor with
yaml-language-server).

- An invalid recipe is refused before anything starts, with one line per fault, such as
  `recipes/x.yaml:12: optim.warmup_step: unknown key; did you mean 'warmup_steps'?`
- YAML is read by the rules of YAML 1.2: `1e-5` is a number, only `true` and `false` are booleans (`yes`, `no`, `on` and
  `off` are text), and each key may be given only once. Anchors, aliases and tags are refused.
- Relative paths start from the working directory, and `~` is your home directory. `model.path` is a folder if it begins
  with `./`, `../`, `/` or `~`, has more than one slash, or is the name of an existing folder; otherwise it is a hub id.
- An empty section uses the defaults.

## Overrides

Every command that reads a recipe accepts overrides, `section.key=value`. The value is YAML, later
overrides win, and a mapping replaces the whole previous mapping:

```sh
optim.lr=2e-5  data.columns.text=review  data.columns='{text: review, label: stars}'  data.dev=null  report.name='"7"'
```
"""

_DEEPSPEED = """\
## What a ds_config may set

`engine.deepspeed` is the name of a strategy or the path of your own DeepSpeed JSON. The strategies are {strategies}.
`null` trains without DeepSpeed ([docs/performance.md](performance.md#without-deepspeed)), and `auto` is the fastest of
them that fits ([docs/planner.md](planner.md#what-would-be-better)).

The recipe defines what is learned, the ds_config how it is computed. Where a ds_config also says what the recipe says
(below), `"auto"`, as is usual with transformers, and a value that agrees are accepted; a contradiction is refused, with
the key of the recipe. With `engine.precision: auto`, the precision that the file names is used.

| ds_config | recipe |
| --- | --- |
{owned}

Files made for other tools work as they are. Names that DeepSpeed no longer has or deprecates are renamed, comments
(`_comment`) and the keys below are ignored, and so is a refused key that turns nothing on; `shardtune check` and the
start of a run list them in one notice. `RUN_DIR/deepspeed.json` can be used as a ds_config again.

| ds_config, ignored | why |
| --- | --- |
{ignored}

`"auto"` for `reduce_bucket_size`, `stage3_prefetch_bucket_size` and `stage3_param_persistence_threshold` is computed
from the model's hidden size with the formulas of transformers (h², 0.9 h² and 10 h), between GPUs at least from their
link ([performance.md](performance.md#several-machines)). `"auto"` for `zero_hpz_partition_size` is the number of ranks
of a machine, or 1 if there is only one machine. For a model without a hidden size, and for `"auto"` elsewhere,
DeepSpeed's defaults apply. `RUN_DIR/deepspeed.json` has the numbers. Keys that DeepSpeed does not know are refused,
values that its own checks refuse too, before any rank starts, and so are these:

| ds_config, refused | why |
| --- | --- |
{refused}
"""

_TRANSFORMERS = """\
## Coming from transformers.TrainingArguments

Names that scripts based on `Trainer` commonly add (`model_name_or_path`, `train_file`, `max_seq_length`) are listed
too.

| transformers | recipe | |
| --- | --- | --- |
"""

_OTHER_TOOLS = """\

## Coming from LLaMA-Factory, axolotl or TRL

| another tool | recipe | |
| --- | --- | --- |
"""


def main() -> None:
    """Write both pages."""
    DOCS_DIR.mkdir(exist_ok=True)
    (DOCS_DIR / "recipe.md").write_text(render_recipe_page(), encoding="utf-8")
    (DOCS_DIR / "recipe.schema.json").write_text(render_json_schema(), encoding="utf-8")


def render_json_schema() -> str:
    """The JSON schema of a recipe, for editors and other programs."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Recipe.model_json_schema()}
    return _as_yaml(json.dumps(schema, indent=2, ensure_ascii=False)) + "\n"


def render_recipe_page() -> str:
    """The text of docs/recipe.md."""
    return "\n".join([_INTRO, *_sections(), _learning(), _deepspeed(), _other_tools()])


def _sections() -> Iterator[str]:
    for name, field in Recipe.model_fields.items():
        kinds = sections_in(field.annotation)
        for section in kinds:
            kind = section.model_fields.get("kind")
            title = f"{name}, {describe_type(kind.annotation)}" if kind and kind.is_required() else name
            yield f"## {title}\n\n{_text(section.__doc__ or '')}\n\n{_table(f'{name}.', section)}\n"
            yield from _sections_inside(name, section)


def _sections_inside(prefix: str, section: type[Section]) -> Iterator[str]:
    """The sections that keys of this section may hold; keys that hold the same section share its description."""
    holders: dict[type[Section], list[str]] = {}
    for name, field in section.model_fields.items():
        for inside in sections_in(field.annotation):
            holders.setdefault(inside, []).append(f"`{prefix}.{name}`")
    for inside, names in holders.items():
        yield f"### A mapping in {', '.join(names)}\n\n{_text(inside.__doc__ or '')}\n\n{_table('', inside)}\n"


def _table(prefix: str, section: type[Section]) -> str:
    rows = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in section.model_fields.items():
        cells = (f"`{prefix}{name}`", _field_type(field), _default(field), _text(field.description or ""))
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def _field_type(field: FieldInfo) -> str:
    return describe_type(field.annotation) + _bounds(field.metadata)


def describe_type(annotation: Any) -> str:
    """A field's type in words: `whole number, above 0, or null`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(args[0]) + _bounds(_flat(args[1:]))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "mapping (below)"
    if origin is dict:
        return f"mapping to {describe_type(args[1])}"
    if origin is tuple and args[-1:] == (...,):
        return f"list of {describe_type(args[0])}"
    if origin is tuple:
        return f"list of {len(args)}: {describe_type(args[0])}"
    if args:
        return " or ".join(dict.fromkeys("null" if part is NoneType else describe_type(part) for part in args))
    return {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}[annotation]


def _flat(metadata: tuple[Any, ...]) -> Iterator[BaseMetadata]:
    for item in metadata:
        yield from item.metadata if isinstance(item, FieldInfo) else (item,)


def _bounds(metadata: Any) -> str:
    words = {Gt: ("gt", "above"), Ge: ("ge", "at least"), Lt: ("lt", "below"), Le: ("le", "at most")}
    bounds = [
        f"{words[type(item)][1]} {getattr(item, words[type(item)][0])}" for item in metadata if type(item) in words
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def _default(field: FieldInfo) -> str:
    return "**required**" if field.is_required() else f"`{json.dumps(field.get_default())}`"


def _text(text: str) -> str:
    return re.sub(r"\bNone\b", "`null`", " ".join(text.split()))


def _as_yaml(text: str) -> str:
    """Docstrings use Python's None; recipes call it null."""
    return re.sub(r"\bNone\b", "null", text)


def _learning() -> str:
    sections = ", ".join(f"`{name}`" for name in LEARNING_SECTIONS)
    exceptions = ", ".join(f"`{key}`" for key in sorted(NOT_LEARNED))
    return (
        f"## What decides what is learned\n\nThe sections {sections}, except {exceptions}. A run directory belongs to "
        "one value of these; everything else may change between two starts of the same run.\n"
    )


def _deepspeed() -> str:
    return _DEEPSPEED.format(
        strategies=", ".join(f"`{name}`" for name in strategies()),
        owned="\n".join(f"| `{key}` | `{ours}` |" for key, ours in OWNED_BY_RECIPE.items()),
        ignored="\n".join(f"| `{key}` | {reason} |" for key, reason in IGNORED.items()),
        refused="\n".join(f"| `{key}` | {reason} |" for key, reason in REFUSED.items()),
    )


def _other_tools() -> str:
    return f"{_TRANSFORMERS}{_counterparts(TRAINING_ARGUMENTS)}{_OTHER_TOOLS}{_counterparts(OTHER_TOOLS)}"


def _counterparts(table: tuple[Names, ...]) -> str:
    rows = sorted(table, key=lambda row: row.ours.key is None)
    return "".join(
        f"| {', '.join(f'`{name}`' for name in row.names)} | {f'`{row.ours.key}`' if row.ours.key else 'none'} "
        f"| {row.ours.note} |\n"
        for row in rows
    )


if __name__ == "__main__":
    main()
