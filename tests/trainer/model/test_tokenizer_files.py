"""Every file that a tokenizer reads belongs to the fingerprint of the data that it prepares."""

import json
from pathlib import Path

import pytest

from shardtune.trainer.model.tokenizer_files import tokenizer_files

USUAL = ["config.json", "merges.txt", "spiece.model", "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
OTHER = ["model.safetensors", "pytorch_model.bin", "README.md", ".gitattributes", "LICENSE", "evaluation.json"]


def names(folder: Path) -> list[str]:
    return [path.name for path in tokenizer_files(folder)]


def write(folder: Path, files: list[str], **configs: dict[str, object]) -> Path:
    for name in files:
        (folder / name).write_text("{}", encoding="utf-8")
    for name, content in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_files_with_usual_names_are_all_there_is(tmp_path: Path) -> None:
    assert names(write(tmp_path, [*USUAL, *OTHER])) == USUAL


@pytest.mark.parametrize(
    ("tokenizer_class", "files"),
    [
        ("MarianTokenizer", ["source.spm", "target.spm"]),
        ("DebertaV2Tokenizer", ["spm.model"]),
        ("DebertaV2TokenizerFast", ["spm.model"]),
        ("PhobertTokenizer", ["bpe.codes"]),
        ("BartphoTokenizer", ["dict.txt"]),
    ],
)
def test_files_that_the_class_names_are_among_them(tmp_path: Path, tokenizer_class: str, files: list[str]) -> None:
    write(tmp_path, [*OTHER, *files, "notes.txt"], tokenizer_config={"tokenizer_class": tokenizer_class})
    assert names(tmp_path) == sorted([*files, "tokenizer_config.json"])


def test_the_model_type_names_the_class_too(tmp_path: Path) -> None:
    write(tmp_path, ["source.spm", "target.spm"], config={"model_type": "marian"})
    assert names(tmp_path) == ["config.json", "source.spm", "target.spm"]


def test_files_that_the_tokenizer_config_names_are_among_them(tmp_path: Path) -> None:
    write(tmp_path, ["my.dict", "other.dict", "tekken.json"], tokenizer_config={"extra": {"files": ["my.dict"]}})
    assert names(tmp_path) == ["my.dict", "tekken.json", "tokenizer_config.json"]


def test_configs_that_cannot_be_read_are_left_to_the_loader(tmp_path: Path) -> None:
    write(tmp_path, ["my.dict"])
    (tmp_path / "tokenizer_config.json").write_text("[1", encoding="utf-8")
    (tmp_path / "config.json").write_text("[]", encoding="utf-8")
    assert names(tmp_path) == ["config.json", "tokenizer_config.json"]
