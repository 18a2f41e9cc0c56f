"""A path stands for a file, or for the files of a folder or glob; otherwise the reason is reported."""

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
    ("path", "files"),
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
def test_a_path_stands_for_these_files(folder: Path, path: str, files: list[str] | None) -> None:
    if files is None:  # braces are the shell's, not a glob's
        with pytest.raises(FindError, match="no such file"):
            find_files(f"{folder}/{path}")
    else:
        assert find_files(f"{folder}/{path}") == [folder / name for name in files]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", ": files of several formats (jsonl: a.jsonl and 2 more; csv: d.csv and 1 more); use a glob such "
         "as {folder}/*.jsonl"),
        ("*", "{folder}/_SUCCESS: unknown format '(no suffix)'"),
        ("gone.csv", "{folder}/gone.csv: no such file"),
        ("*.tsv", "{folder}/*.tsv: no file matches; the folder {folder} contains .git, _SUCCESS, a.jsonl, b.jsonl.gz, "
         "d.csv and 3 more"),
        ("gone/*.tsv", "{folder}/gone/*.tsv: no file matches; does the folder {folder}/gone exist?"),
        ("notes.md", "{folder}/notes.md: unknown format '.md'; legal: .jsonl, .ndjson, .csv, .tsv, "),
        (".git/deeper", "{folder}/.git/deeper: no such file"),
    ],
)  # fmt: skip
def test_a_path_without_files_is_reported_with_what_exists(folder: Path, path: str, message: str) -> None:
    with pytest.raises(FindError) as raised:
        find_files(f"{folder}/{path}" if path else str(folder))
    wanted = message.format(folder=folder)
    assert str(raised.value).startswith(f"{folder}{wanted}" if not path else wanted)


def test_a_folder_without_rows_is_reported(tmp_path: Path) -> None:
    (tmp_path / "readme.md").touch()
    with pytest.raises(FindError, match=r"no file of a supported format in the folder; legal: \.jsonl, "):
        find_files(str(tmp_path))


def test_an_existing_file_is_not_a_glob_and_the_folder_before_a_glob_is_not_part_of_it(tmp_path: Path) -> None:
    odd = tmp_path / "run[1]"
    odd.mkdir()
    (odd / "a.csv").touch()
    (odd / "b[2].csv").touch()
    assert not is_glob(f"{odd}/b[2].csv")
    assert find_files(f"{escaped(odd)}/*.csv") == [odd / "a.csv", odd / "b[2].csv"]
    assert is_glob(f"{odd}/*.csv") and not is_glob(f"{odd}/a.csv")


def test_a_file_that_matches_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").touch()
    assert find_files(f"{tmp_path}/**") == [tmp_path / "in" / "a.csv"]


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "real.dat").touch()
    (tmp_path / "a.csv").symlink_to(tmp_path / "real.dat")
    assert find_files(str(tmp_path)) == [tmp_path / "a.csv"]


def test_which_paths_the_datasets_library_loads(tmp_path: Path) -> None:
    assert is_dataset("hf:owner/name") and not is_dataset(str(tmp_path))
    (tmp_path / "dataset_dict.json").touch()
    assert is_dataset(str(tmp_path))
