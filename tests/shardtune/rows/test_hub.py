"""Data sets of the `datasets` library give rows like any other; one that cannot be loaded is reported in one line."""

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pytest

from shardtune.errors import DataError
from shardtune.rows import hub_access
from shardtune.rows.hub import dataset_digest
from shardtune.rows.row_faults import Faults
from shardtune.rows.source import Row, read_source
from shardtune.rows.source_config import SourceConfig

FEATURES = datasets.Features(
    text=datasets.Value("string"),
    label=datasets.ClassLabel(names=["negative", "positive"]),
    tags=datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
    turns=[{"by": datasets.ClassLabel(names=["user", "assistant"]), "text": datasets.Value("string")}],
    translation=datasets.Translation(languages=("en", "fr")),
)
ROWS = {
    "text": ["good", "bad", "unknown"],
    "label": [1, 0, -1],
    "tags": [[0, 1], [], [1]],
    "turns": [[{"by": 0, "text": "Hi."}, {"by": 1, "text": "Hello."}], [], [{"by": None, "text": None}]],
    "translation": [{"en": "a", "fr": "b"}] * 3,
}
FIRST = {
    "text": "good",
    "label": "positive",
    "tags": ["O", "B-PER"],
    "turns": [{"by": "user", "text": "Hi."}, {"by": "assistant", "text": "Hello."}],
    "translation": {"en": "a", "fr": "b"},
}


@pytest.fixture(autouse=True)
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the network nor the caches of the user who runs the tests are touched."""
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub_access.hub_fault.cache_clear()  # of what another test has been told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved Dataset (one), a saved DatasetDict (several), and a repository as on the hub (repo)."""
    folder = tmp_path_factory.mktemp("datasets")
    one = datasets.Dataset.from_dict(ROWS, features=FEATURES)
    one.save_to_disk(folder / "one")
    datasets.DatasetDict(train=one, validation=one.select([1])).save_to_disk(folder / "several")
    one.to_parquet(folder / "one.parquet")
    (folder / "repo").mkdir()
    for split, texts in (("train", ["a", "b"]), ("validation", ["c"]), ("test", ["d"])):
        datasets.Dataset.from_dict({"text": texts}).to_parquet(folder / "repo" / f"{split}.parquet")
    (folder / "subsets" / "fr").mkdir(parents=True)
    (folder / "subsets" / "en").mkdir()
    (folder / "subsets" / "fr" / "train.csv").write_text("text\nbon\n")
    (folder / "subsets" / "en" / "train.csv").write_text("text\ngood\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in ("en", "fr"))
    (folder / "subsets" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    return folder


def read(path: str | Path, *, as_split: str = "train", **keys: Any) -> tuple[list[Row], Faults, list[str]]:
    faults, notes = Faults(), list[str]()
    source = SourceConfig(path=str(path), **keys)
    return read_source(source, faults, split=as_split, synonyms={}, say=notes.append), faults, notes


def texts(rows: list[Row]) -> list[str]:
    return [row.values["text"] for row in rows]


@pytest.mark.parametrize("name", ["one", "several", "one.parquet"])
def test_the_numbers_of_class_labels_are_replaced_by_their_names(folder: Path, name: str) -> None:
    rows, faults, notes = read(folder / name)
    assert not faults
    assert rows[0].values == FIRST
    assert [row.values["label"] for row in rows] == ["positive", "negative", None]  # -1 stands for no label
    assert rows[2].values["turns"] == [{"by": None, "text": None}]
    assert str(rows[1]) == f"{folder / name}: row 2"
    assert "the numbers in label are replaced by the names stored with the data: 0 = negative, 1 = positive" in notes
    assert any(text.startswith("the numbers in tags are replaced by the names") for text in notes)


def test_the_split_is_the_one_given_or_the_one_of_the_same_name(folder: Path) -> None:
    assert len(read(folder / "several")[0]) == 3
    rows, _, notes = read(folder / "several", as_split="dev")
    assert texts(rows) == ["bad"] and "using split 'validation'" in notes
    assert texts(read(folder / "several", as_split="dev", split="train")[0]) == ["good", "bad", "unknown"]


def test_a_hub_data_set_is_loaded_by_the_datasets_library(folder: Path) -> None:
    path = f"hf:{folder}/repo"
    rows, faults, _ = read(path)
    assert (texts(rows), bool(faults)) == (["a", "b"], False)
    assert str(rows[1]) == f"{path}: row 2"
    assert texts(read(path, as_split="dev")[0]) == ["c"]
    assert texts(read(path, as_split="test")[0]) == ["d"]
    assert texts(read(path, split="train[1:]+validation")[0]) == ["b", "c"]


def test_a_subset_is_chosen_by_its_name(folder: Path) -> None:
    assert texts(read(f"hf:{folder}/subsets", subset="fr")[0]) == ["bon"]
    _, faults, _ = read(f"hf:{folder}/subsets")
    assert "Config name is missing" in str(faults)


def test_the_digest_is_of_the_rows_their_names_and_the_part_that_is_meant(folder: Path, tmp_path: Path) -> None:
    renamed = datasets.Dataset.from_dict({"label": [0]}, features=datasets.Features(label=FEATURES["label"]))
    renamed.save_to_disk(tmp_path / "named")
    bare = datasets.Dataset.from_dict({"label": [0]})
    bare.save_to_disk(tmp_path / "bare")
    bare.save_to_disk(tmp_path / "again")
    sources = [
        SourceConfig(path=str(tmp_path / "named")),
        SourceConfig(path=str(tmp_path / "bare")),
        SourceConfig(path=str(folder / "several")),
        SourceConfig(path=str(folder / "several"), split="validation"),
        SourceConfig(path=f"hf:{folder}/repo", split="train"),
        SourceConfig(path=f"hf:{folder}/repo", split="train[:1]"),
    ]
    assert len({dataset_digest(source, "train") for source in sources}) == len(sources)
    again = SourceConfig(path=str(tmp_path / "again"))
    assert dataset_digest(again, "train") == dataset_digest(sources[1], "train")


def saved(folder: Path, name: str, content: str | bytes | None) -> Path:
    """A saved data set with one file replaced, or removed."""
    datasets.Dataset.from_dict({"text": ["a", "b"]}).save_to_disk(folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


ARROW = "data-00000-of-00001.arrow"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (ARROW, None, "No such file"),
        (ARROW, "", "Tried reading schema message, was null or length 0"),
        (ARROW, "text\na\nb\n", ""),
        (ARROW, b"\xff\xff\xff\xff\x10\0\0\0", "Expected to read 16 metadata bytes"),
        ("state.json", "{", "Expecting property name"),
        ("state.json", "[]", "list indices must be integers"),
        ("state.json", "{}", "_data_files"),
        ("state.json", b"\xff\xfe", "'utf-8' codec can't decode"),
        ("dataset_info.json", "", "Expecting value"),
        ("dataset_info.json", "[]", "'list' object has no attribute 'items'"),
        ("dataset_info.json", '{"features": {"text": {"_type": "Nothing"}}}', "Feature type 'Nothing' not found"),
        ("dataset_info.json", '{"features": {"label": {"dtype": "string", "_type": "Value"}}}', ""),
    ],
)
def test_a_saved_folder_that_is_damaged_is_one_fault(
    tmp_path: Path, name: str, content: str | bytes | None, message: str
) -> None:
    folder = saved(tmp_path / "saved", name, content)
    rows, faults, _ = read(folder)
    (fault,) = faults.first
    assert fault.startswith(f"{folder}: cannot be loaded by the datasets library: ") and message in fault
    assert not rows and not faults.are_rows_alone


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "doesn't contain any data files"),
        ({"train.jsonl": '{"a": 1}\nxx\n'}, "An error occurred while generating the dataset; JSON parse error"),
        ({"train.csv": b"a\n\xff\n"}, "An error occurred while generating the dataset; 'utf-8' codec can't decode"),
        ({"train.csv": "a,b\n1,2\n", "test.csv": "a,c\n1,2\n"}, "generating the dataset; Couldn't cast"),
        ({"train.parquet": "text,label\n"}, "Parquet magic bytes not found in footer"),
        ({"repo.py": "1/0"}, "Dataset scripts are no longer supported"),
        ({"train.csv": "a\n1\n", "README.md": "---\nconfigs: [\n---\n"}, "while parsing a flow"),
    ],
)
def test_a_repository_that_is_damaged_is_one_fault(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    folder = tmp_path / "repo"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    _, faults, _ = read(f"hf:{folder}")
    (fault,) = faults.first
    assert fault.startswith(f"hf:{folder}: cannot be loaded by the datasets library: ") and message in fault


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("several", {"split": "valid"}, "no split 'valid'; found: train, validation. Choose one with `split`"),
        ("one", {"split": "train"}, "is a single split; remove split: train"),
        (
            "hf:{folder}/repo",
            {"split": "dev"},
            "Unknown split \"dev\". Should be one of ['train', 'validation', 'test']",
        ),
        ("hf:{folder}/repo", {"split": "train[:5x]"}, "Unrecognized instruction format: train[:5x]"),
        ("hf:{folder}/repo", {"subset": "de"}, "BuilderConfig 'de' not found. Available: ['default']"),
        ("hf:{folder}/gone", {}, "Couldn't find any data file at"),
        ("hf:owner/name", {}, "Couldn't reach 'owner/name' on the Hub"),
        ("hf:owner/name", {"revision": "main", "split": "train"}, "Couldn't reach 'owner/name' on the Hub"),
        ("hf:", {}, ""),
    ],
)
def test_what_is_missing_is_reported_with_the_rest(folder: Path, name: str, keys: dict[str, Any], message: str) -> None:
    path = name.format(folder=folder) if name.startswith("hf:") else folder / name
    _, faults, _ = read(path, **keys)
    (fault,) = faults.first
    assert fault.startswith(f"{path}: ") and message in fault


def test_a_missing_test_split_is_not_replaced_by_another(folder: Path) -> None:
    _, faults, _ = read(folder / "several", as_split="test")
    assert "no split 'test'; found: train, validation" in str(faults)


def test_a_number_without_a_name_affects_only_its_row(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"label": [0, 5, 1]}).save_to_disk(folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["features"] = {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    rows, faults, _ = read(folder)
    assert [row.values["label"] for row in rows] == ["a", "b"]
    assert faults.first == [f"{folder}: row 2: label 5 is not one of the 2 labels that have names in the data"]
    assert faults.are_rows_alone and faults.num_rows == 1


def test_a_data_set_that_cannot_be_loaded_is_a_data_error(folder: Path) -> None:
    with pytest.raises(DataError, match="remove split"):
        dataset_digest(SourceConfig(path=str(folder / "one"), split="x"), "train")
