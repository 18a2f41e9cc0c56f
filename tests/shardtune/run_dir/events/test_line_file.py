"""A file is read on from where it was left, and from its begin if it is not the same any more."""

import os
from pathlib import Path

import pytest

from shardtune.run_dir.events.line_file import LineFile


def read(file: LineFile) -> tuple[bytes, bool]:
    """The new lines, and whether the file was read from its begin."""
    blocks = list(file.blocks())
    return b"".join(block.data for block in blocks), any(block.is_first for block in blocks)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "m").write_bytes(b"one\ntwo\n")
    return tmp_path / "m"


def add(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_only_whole_new_lines_are_read(path: Path) -> None:
    file = LineFile(path)
    assert read(file) == (b"one\ntwo\n", True)
    assert read(file) == (b"", False)
    add(path, b"three\nfo")
    assert read(file) == (b"three\n", False)
    add(path, b"ur")
    assert read(file) == (b"", False)
    add(path, b"\n\xc2\x85\xe2\x80\xa8\0\n")
    assert read(file) == (b"four\n\xc2\x85\xe2\x80\xa8\0\n", False)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_blocks_are_whole_lines_of_whatever_length(path: Path, size: int) -> None:
    file = LineFile(path)
    add(path, b"a long line\n" + b"half")
    blocks = list(file.blocks(size))
    assert b"".join(block.data for block in blocks) == b"one\ntwo\na long line\n"
    assert all(block.data.endswith(b"\n") for block in blocks)
    assert [block.is_first for block in blocks] == [True] + [False] * (len(blocks) - 1)


def test_a_file_that_was_truncated_replaced_or_written_anew_is_read_from_its_begin(path: Path) -> None:
    file = LineFile(path)
    read(file)
    path.write_bytes(b"one\n")
    assert read(file) == (b"one\n", True)
    other = path.with_name("other")
    other.write_bytes(b"one\nand more\n")
    other.replace(path)
    assert read(file) == (b"one\nand more\n", True)
    with path.open("r+b") as same:  # the same file, and longer than before
        same.write(b"one\nnot that one\n")
    assert read(file) == (b"one\nnot that one\n", True)
    path.write_bytes(b"")
    assert read(file) == (b"", True)


def test_what_is_no_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        list(LineFile(tmp_path / "pipe").blocks())
    with pytest.raises(FileNotFoundError):
        list(LineFile(tmp_path / "none").blocks())


def test_what_is_not_taken_is_left_for_the_next_call(path: Path) -> None:
    file = LineFile(path)
    assert next(file.blocks(5)).data == b"one\n"
    assert not file.is_at_end
    assert read(file) == (b"two\n", False) and file.is_at_end


def test_a_file_that_is_as_it_was_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LineFile(path)
    read(file)
    reads: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, at: reads.append(size) or pread(descriptor, size, at))
    assert read(file) == (b"", False) and reads == []
    add(path, b"three\n")
    assert read(file) == (b"three\n", False) and len(reads) == 2  # the mark, and what is new
