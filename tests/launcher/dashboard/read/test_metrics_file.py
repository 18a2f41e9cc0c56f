"""A file is read on from where it was left, and from its begin if it is not the same any more."""

import os
from pathlib import Path

import pytest

from shardtune.launcher.dashboard.read import metrics_file
from shardtune.launcher.dashboard.read.metrics_file import MetricsFile, read_ends


def read(file: MetricsFile) -> tuple[bytes, bool]:
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
    file = MetricsFile(path)
    assert read(file) == (b"one\ntwo\n", True)
    assert read(file) == (b"", False)
    add(path, b"three\nfo")
    assert read(file) == (b"three\n", False)
    add(path, b"ur")
    assert read(file) == (b"", False)
    add(path, b"\n\xc2\x85\xe2\x80\xa8\0\n")
    assert read(file) == (b"four\n\xc2\x85\xe2\x80\xa8\0\n", False)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_blocks_are_whole_lines_of_whatever_length(path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_file, "BLOCK", size)
    file = MetricsFile(path)
    add(path, b"a long line\n" + b"half")
    blocks = list(file.blocks())
    assert b"".join(block.data for block in blocks) == b"one\ntwo\na long line\n"
    assert all(block.data.endswith(b"\n") for block in blocks)
    assert [block.is_first for block in blocks] == [True] + [False] * (len(blocks) - 1)


def test_a_file_that_was_truncated_replaced_or_written_anew_is_read_from_its_begin(path: Path) -> None:
    file = MetricsFile(path)
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


def test_changes_are_seen_once(path: Path) -> None:
    file = MetricsFile(path)
    assert (file.has_changed(), file.has_changed()) == (True, False)
    add(path, b"x")
    assert (file.has_changed(), file.has_changed()) == (True, False)


def test_what_is_no_file_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        list(MetricsFile(tmp_path / "pipe").blocks())
    with pytest.raises(FileNotFoundError):
        list(MetricsFile(tmp_path / "none").blocks())


@pytest.mark.parametrize("num_bytes", range(1, 40))
def test_ends_are_whole_lines_that_are_there_once(tmp_path: Path, num_bytes: int) -> None:
    lines = [b"%d: %s\n" % (number, b"x" * number) for number in range(6)]
    (tmp_path / "m").write_bytes(b"".join(lines) + b"half")
    head, tail = read_ends(tmp_path / "m", num_bytes)
    shown = (head + tail).splitlines(keepends=True)
    assert set(shown) <= set(lines) and sorted(set(shown)) == shown
    if num_bytes > 30:
        assert shown == lines
