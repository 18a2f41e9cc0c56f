"""A change of a file is seen once, and its two ends are whole lines."""

from pathlib import Path

import pytest

from shardtune.launcher.dashboard.read.metrics_file import MetricsFile, read_ends


def test_changes_are_seen_once(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"one\n")
    file = MetricsFile(path)
    assert (file.has_changed(), file.has_changed()) == (True, False)
    with path.open("ab") as more:
        more.write(b"x")
    assert (file.has_changed(), file.has_changed(), file.num_unread()) == (True, False, 5)


@pytest.mark.parametrize("num_bytes", range(1, 40))
def test_ends_are_whole_lines_that_are_there_once(tmp_path: Path, num_bytes: int) -> None:
    lines = [b"%d: %s\n" % (number, b"x" * number) for number in range(6)]
    (tmp_path / "m").write_bytes(b"".join(lines) + b"half")
    head, tail = read_ends(tmp_path / "m", num_bytes)
    shown = (head + tail).splitlines(keepends=True)
    assert set(shown) <= set(lines) and sorted(set(shown)) == shown
    if num_bytes > 30:
        assert shown == lines
