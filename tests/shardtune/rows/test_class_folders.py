"""A folder for each class is recognized by its names alone, and nothing else is taken for one."""

from pathlib import Path

import pytest

from shardtune.rows.class_folders import class_folders, unlabeled_folders

ACL_IMDB = [
    "pos/10_9.txt", "pos/2_7.txt", "neg/3_1.txt", "unsup/0_0.txt",
    "urls_pos.txt", "urls_neg.txt", "urls_unsup.txt", "labeledBow.feat", "README", ".DS_Store", "pos/.hidden.jsonl",
]  # fmt: skip


def tree(folder: Path, names: list[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("A text.\n", encoding="utf-8")
    return folder


def test_the_folders_of_acl_imdb_are_its_classes_and_its_unlabeled_texts_none(tmp_path: Path) -> None:
    folder = tree(tmp_path, ACL_IMDB)
    assert class_folders(folder) == {
        "neg": [folder / "neg/3_1.txt"],
        "pos": [folder / "pos/2_7.txt", folder / "pos/10_9.txt"],
    }
    assert unlabeled_folders(folder) == ["unsup"]


def test_texts_may_have_no_ending_as_in_20_newsgroups(tmp_path: Path) -> None:
    folder = tree(tmp_path, ["sci.space/60191", "sci.space/9999", "rec.autos/101551"])
    assert class_folders(folder) == {
        "rec.autos": [folder / "rec.autos/101551"],
        "sci.space": [folder / "sci.space/9999", folder / "sci.space/60191"],
    }
    assert unlabeled_folders(folder) == []


@pytest.mark.parametrize(
    "names",
    [
        ["a.txt", "b.txt"],
        ["pos/1.txt"],
        ["pos/1.txt", "unsup/1.txt"],
        ["pos/1.txt", "neg/1.csv"],
        ["pos/1.txt", "neg/1.txt", "more.jsonl"],
        ["pos/1.txt", "neg/1.txt", "extra.txt"],
        ["train/pos/1.txt", "train/neg/1.txt", "test/pos/2.txt", "test/neg/2.txt"],
    ],
)
def test_another_folder_is_not_one_of_classes(tmp_path: Path, names: list[str]) -> None:
    assert class_folders(tree(tmp_path, names)) is None


def test_an_empty_folder_is_no_class(tmp_path: Path) -> None:
    folder = tree(tmp_path, ["pos/1.txt", "neg/1.txt"])
    (folder / "empty").mkdir()
    assert sorted(class_folders(folder) or {}) == ["neg", "pos"]
