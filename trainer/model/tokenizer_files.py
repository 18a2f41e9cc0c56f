"""Which files of a model folder the tokens of a text depend on."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

USUAL = ("token", "vocab", "merges", "spiece", "sentencepiece", "config.json", "chat_template")
"""Parts of the names of files that belong to a tokenizer whatever its class."""
OTHERS = (
    *(".safetensors", ".bin", ".h5", ".msgpack", ".ot", ".onnx", ".pt", ".pth", ".gguf", ".index.json"),
    *(".md", ".py", ".gitattributes", "LICENSE"),
)
"""How files of a model folder end that are none of its tokenizer's."""
ALSO = ("tekken.json",)
"""Vocabularies that no class of transformers names."""


def tokenizer_files(folder: Path) -> list[Path]:
    """The files in a model's folder that its tokenizer reads, sorted: those with a usual name, those that its class
    names (such as source.spm), and those that tokenizer_config.json names.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file())
    usual = [path for path in files if any(word in path.name for word in USUAL)]
    rest = {path.name: path for path in files if path not in usual and not path.name.endswith(OTHERS)}
    if not rest:
        return usual
    configs = [_read(folder / "tokenizer_config.json"), _read(folder / "config.json")]
    named = {*ALSO, *_texts_in(configs[0]), *_names_of_class(configs)}
    return sorted([*usual, *(path for name, path in rest.items() if name in named)])


def _read(path: Path) -> dict[str, Any]:
    """The content of a JSON file; empty if it is missing or not JSON, which is reported when it is loaded."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(inner)


def _names_of_class(configs: list[dict[str, Any]]) -> Iterator[str]:
    """The names of the files that the tokenizer's class reads."""
    from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

    of_type = TOKENIZER_MAPPING_NAMES.get(str(configs[1].get("model_type")))
    classes = (of_type, *(config.get("tokenizer_class") for config in configs))
    named = [name for name in classes if isinstance(name, str)]
    for name in dict.fromkeys([*named, *(each.removesuffix("Fast") for each in named)]):
        with suppress(ImportError):  # of what the tokenizer needs; without it, it cannot be loaded either
            yield from getattr(tokenizer_class_from_name(name), "vocab_files_names", {}).values()
