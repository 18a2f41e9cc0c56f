"""Malformed inputs: data files of every format and recipes with every key, damaged at random by a seed.

Whatever is given, the preparation of the data ends in examples or in one error in words, never in a traceback.
"""

import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from shardtune.errors import ShardtuneError
from shardtune.recipe.load import load_recipe
from shardtune.rows.formats import FORMATS
from shardtune.trainer.data.prepare.prepare import prepare
from tests.support.tiny import write_causal, write_encoder, write_encoder_decoder

WORDS = ["good", "bad", "film", "warm", "Anna", "Paris", "the", "was"]
TEXTS = ["the film was good", "Anna was bad", "the warm Paris", "\u597d\u7247", "a \u2028 b", "</s> <|im_end|> [MASK]"]
ROWS: dict[str, list[dict[str, Any]]] = {
    "classification": [{"text": text, "label": ("x", "y")[at % 2]} for at, text in enumerate(TEXTS)],
    "token_classification": [{"tokens": text.split(), "tags": ["O"] * len(text.split())} for text in TEXTS]
    + [{"tokens": ["Anna", "was"], "tags": ["B-PER", "O"]}],
    "translation": [{"source": text, "target": text} for text in TEXTS],
    "chat": [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]} for text in TEXTS[:5]
    ],
    "language_modeling": [{"text": text} for text in TEXTS],
}
"""Good rows of every task."""
MODELS = {
    "classification": ("encoder",),
    "token_classification": ("encoder",),
    "translation": ("encoder_decoder", "causal"),
    "chat": ("causal",),
    "language_modeling": ("causal", "encoder"),
}
OPTIONS = {"translation": {"source_language": "en", "target_language": "fr"}}
SPICE = [
    b'"',
    b"{",
    b"[",
    b"}",
    b"]",
    b",",
    b":",
    b"\t",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"null",
    b"NaN",
]
SPICE += [b"-1", b"1e999", b"\\ud800", b"\xc2\x85", b"\xe2\x80\xa8", b"#", b"-DOCSTART-", b";", b"|", b"<tu>", b"&x;"]
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    1e308,
    "",
    " ",
    "x",
    "auto",
    "\u2028",
    [],
    {},
    [1],
    {"a": 1},
    [[]],
    "9" * 400,
    2**70,
]
"""Values that somebody may give to a key or a cell."""


@dataclass(frozen=True)
class Place:
    """A folder with tiny models."""

    folder: Path


def make_place(folder: Path) -> Place:
    """Writes a tiny model of each kind."""
    write_encoder(folder / "encoder")
    write_causal(folder / "causal", WORDS)
    write_encoder_decoder(folder / "encoder_decoder", WORDS)
    return Place(folder)


def rounds(place: Place, seeds: range) -> Iterator[str]:
    """What each seed's input ended in. AssertionError or any other exception than a ShardtuneError is a fault."""
    for seed in seeds:
        try:
            yield f"seed {seed}: {_try(place, random.Random(seed))}"
        except Exception as error:
            error.add_note(f"seed {seed}: python -m tests.fuzz --seed {seed} --rounds 1")
            raise


def _try(place: Place, chance: random.Random) -> str:
    task = chance.choice(sorted(ROWS))
    name = chance.choice([*sorted(FORMATS), "none"])
    ending = "" if name == "none" else chance.choice(FORMATS[name].endings)
    data = place.folder / f"train{ending}"
    content = _damaged(_written(name, _damaged_rows(ROWS[task], chance)), chance)
    if chance.random() < 0.1:
        data, content = data.with_name(f"{data.name}.gz"), gzip.compress(content)
    data.write_bytes(content)
    draft: dict[str, Any] = {
        "task": {"kind": task, **OPTIONS.get(task, {})},
        "model": {"path": str(place.folder / chance.choice(MODELS[task]))},
        "data": {"train": str(data), "max_tokens": 32, "cache_dir": str(place.folder / "cache")},
    }
    if chance.random() < 0.5:
        _change_a_key(draft, str(data), chance)
    recipe = place.folder / "recipe.yaml"
    recipe.write_text(json.dumps(draft), encoding="utf-8")
    before = data.read_bytes()
    try:
        prepared = prepare(load_recipe(recipe), num_processes=1)
        outcome = f"{prepared.meta['splits']['train']['examples']} examples"
    except ShardtuneError as error:
        text = str(error)
        assert text.strip() and "Traceback" not in text, text
        text.encode()
        outcome = text.split("\n")[0]
    finally:
        assert data.read_bytes() == before, "the data were changed"
    data.unlink()
    return f"{task}, {name}: {outcome}"


def _damaged_rows(rows: list[dict[str, Any]], chance: random.Random) -> list[dict[str, Any]]:
    """The rows, some without a column, with another one, or with an odd value somewhere in them."""
    damaged = json.loads(json.dumps(rows))
    for _ in range(chance.choice([0, 0, 1, 3])):
        row = chance.choice(damaged)
        column = chance.choice([*row, "extra"]) if row else "extra"
        if chance.random() < 0.3:
            row.pop(column, None)
        else:
            row[column] = _with_odd_leaf(row.get(column), chance)
    return damaged


def _with_odd_leaf(value: Any, chance: random.Random) -> Any:
    """The value with an odd one in its place, or in that of something in it."""
    if isinstance(value, list) and value and chance.random() < 0.7:
        at = chance.randrange(len(value))
        return [_with_odd_leaf(item, chance) if number == at else item for number, item in enumerate(value)]
    if isinstance(value, dict) and value and chance.random() < 0.7:
        name = chance.choice(sorted(value))
        return {**value, name: _with_odd_leaf(value[name], chance)}
    return chance.choice(ODD)


def _written(name: str, rows: list[dict[str, Any]]) -> bytes:
    """The rows in a format, as well as it can hold them."""
    if name in ("parquet", "arrow"):
        return _table(name, rows)
    if name == "json":
        return json.dumps(rows, ensure_ascii=False).encode()
    if name in ("csv", "tsv"):
        return _cells(rows, "," if name == "csv" else "\t")
    if name == "conll":
        sentences = [zip(str(row.get("tokens")).split(), str(row.get("tags")).split(), strict=False) for row in rows]
        return "\n".join("".join(f"{token}\t{tag}\n" for token, tag in words) for words in sentences).encode()
    if name == "tmx":
        units = "".join(
            f'<tu><tuv xml:lang="en"><seg>{at}</seg></tuv><tuv xml:lang="fr"><seg>{at}</seg></tuv></tu>'
            for at in range(len(rows))
        )
        return f"<tmx version='1.4'><header/><body>{units}</body></tmx>".encode()
    if name == "text":
        return "".join(f"{text}\n" for text in TEXTS).encode()
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(name: str, rows: list[dict[str, Any]]) -> bytes:
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError):  # Arrow needs one type a column
        table = pa.table({"text": [str(row)[:50] for row in rows]})
    sink = io.BytesIO()
    if name == "parquet":
        try:
            parquet.write_table(table, sink)
        except pa.ArrowException:  # of a struct without fields
            parquet.write_table(pa.table({"text": TEXTS}), sink := io.BytesIO())
    else:
        with ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    return sink.getvalue()


def _cells(rows: list[dict[str, Any]], separator: str) -> bytes:
    columns = sorted({name for row in rows for name in row})
    lines = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    quoted = (['"' + cell.replace('"', '""') + '"' for cell in line] for line in lines)
    return "".join(separator.join(line) + "\n" for line in quoted).encode(errors="replace")


def _damaged(content: bytes, chance: random.Random) -> bytes:
    """The content, some of its bytes removed and others inserted; or in another encoding."""
    if chance.random() < 0.1:
        text = content.decode(errors="replace")
        return text.encode(chance.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "gb18030", "big5"]), "replace")
    for _ in range(chance.choice([0, 0, 1, 2, 5])):
        at = chance.randrange(len(content) + 1)
        content = content[:at] + chance.choice([b"", *SPICE]) + content[at + chance.choice([0, 0, 1, 3, 50]) :]
    return content


def _change_a_key(draft: dict[str, Any], path: str, chance: random.Random) -> None:
    """Gives an odd value to a key of the draft: of the task, the data, the model, or the source."""
    from shardtune.recipe.model.config import ModelConfig
    from shardtune.recipe.sections.data import DataConfig
    from shardtune.recipe.tasks import TASK_OPTIONS
    from shardtune.rows.source_config import SourceConfig

    where = chance.choice(["task", "data", "model", "source"])
    if where == "source":
        draft["data"]["train"] = {"path": path}
        section, fields = draft["data"]["train"], SourceConfig.model_fields
    else:
        section = draft[where]
        fields = {"task": TASK_OPTIONS[draft["task"]["kind"]], "data": DataConfig, "model": ModelConfig}[
            where
        ].model_fields
    key = chance.choice(sorted(set(fields) - {"path", "kind", "cache_dir"}))
    legal = [
        *FORMATS,
        "utf-16",
        "cp1252",
        "gb18030",
        ";",
        "skip",
        "train",
        "all",
        "escape",
        "off",
        "new",
        "keep",
        "apart",
    ]
    section[key] = chance.choice([*ODD, *legal])
