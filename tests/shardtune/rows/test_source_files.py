"""A path stands for a file, a folder's files, or a glob's; or it is said why it stands for none."""

from pathlib import Path

import pytest

from shardtune.rows.source_files import FindError, escaped, find_files, is_dataset, is_glob


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "a.jsonl",
        "b.jsonl.gz",
        "deep/er/c.jsonl",
        "d.csv",
        "notes.md",
        ".git/x.jsonl",
        "_SUCCESS",
        "e[1].csv",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.jsonl", ["a.jsonl"]),
        ("*.jsonl", ["a.jsonl"]),
        ("*.jsonl*", ["a.jsonl", "b.jsonl.gz"]),
        ("**/*.jsonl", ["a.jsonl", "deep/er/c.jsonl"]),
        ("[ab].*", ["a.jsonl", "b.jsonl.gz"]),
        ("deep", ["deep/er/c.jsonl"]),
        ("de*", ["deep/er/c.jsonl"]),
        ("{a,deep}", None),
        ("e[1].csv", ["e[1].csv"]),
    ],
)
def test_a_path_stands_for_these_files(folder: Path, path: str, found: list[str] | None) -> None:
    if found is None:  # braces are the shell's, not a glob's
        with pytest.raises(FindError, match="there is no such file"):
            find_files(f"{folder}/{path}")
    else:
        assert find_files(f"{folder}/{path}") == [folder / name for name in found]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", ": files of several formats (.jsonl: a.jsonl and 2 more; .csv: d.csv and 1 more); choose by a glob such "
         "as {folder}/*.jsonl"),
        ("*", "{folder}/_SUCCESS: unknown format '(no suffix)'"),
        ("gone.csv", "{folder}/gone.csv: there is no such file"),
        ("*.tsv", "{folder}/*.tsv: no file is called so; in the folder there are .git, _SUCCESS, a.jsonl, b.jsonl.gz, "
         "d.csv and 3 more"),
        ("gone/*.tsv", "{folder}/gone/*.tsv: no file is called so; is there a folder {folder}/gone?"),
        ("notes.md", "{folder}/notes.md: unknown format '.md'; legal: .jsonl, .csv, .tsv, "),
        (".git/deeper", "{folder}/.git/deeper: there is no such file"),
    ],
)  # fmt: skip
def test_a_path_that_stands_for_nothing_is_told_what_is_there(folder: Path, path: str, said: str) -> None:
    with pytest.raises(FindError) as raised:
        find_files(f"{folder}/{path}" if path else str(folder))
    wanted = said.format(folder=folder)
    assert str(raised.value).startswith(f"{folder}{wanted}" if not path else wanted)


def test_a_folder_without_rows_is_said(tmp_path: Path) -> None:
    (tmp_path / "readme.md").touch()
    with pytest.raises(FindError, match=r"no file of a known format is in the folder; legal: \.jsonl, "):
        find_files(str(tmp_path))


def test_a_file_that_is_there_is_no_glob_and_a_folder_before_a_glob_is_no_part_of_it(tmp_path: Path) -> None:
    odd = tmp_path / "run[1]"
    odd.mkdir()
    (odd / "a.csv").touch()
    (odd / "b[2].csv").touch()
    assert not is_glob(f"{odd}/b[2].csv")
    assert find_files(f"{escaped(odd)}/*.csv") == [odd / "a.csv", odd / "b[2].csv"]
    assert is_glob(f"{odd}/*.csv") and not is_glob(f"{odd}/a.csv")


def test_two_globs_matches_of_one_file_are_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").touch()
    assert find_files(f"{tmp_path}/**") == [tmp_path / "in" / "a.csv"]


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "real.dat").touch()
    (tmp_path / "a.csv").symlink_to(tmp_path / "real.dat")
    assert find_files(str(tmp_path)) == [tmp_path / "a.csv"]


def test_what_the_datasets_library_is_for(tmp_path: Path) -> None:
    assert is_dataset("hf:owner/name") and not is_dataset(str(tmp_path))
    (tmp_path / "dataset_dict.json").touch()
    assert is_dataset(str(tmp_path))
