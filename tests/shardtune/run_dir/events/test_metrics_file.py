"""metrics.jsonl as it grows: each event once, whatever happens to the file between two reads."""

import os
from pathlib import Path

import pytest

from shardtune.run_dir.events.metrics_file import MetricsFile, NewEvents
from tests.support.hand_made_run import event, lines, step

STEPS = [step(number, 100.0 + number) for number in range(1, 9)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def numbers(new: NewEvents) -> list[int]:
    return [each["step"] for each in new.events]


def test_each_event_is_read_once(path: Path) -> None:
    file = MetricsFile(path)
    assert not file.read().exists
    path.write_bytes(lines(STEPS[:2]))
    assert (numbers(file.read()), file.read().events) == ([1, 2], [])
    with path.open("ab") as writer:
        writer.write(lines(STEPS[2:4]))
    assert (numbers(file.read()), file.progress) == ([3, 4], 1.0)


def test_a_half_written_line_is_read_when_it_is_whole(path: Path) -> None:
    file = MetricsFile(path)
    whole = lines(STEPS[:2])
    path.write_bytes(whole[:-20])
    new = file.read()
    assert (numbers(new), new.num_damaged, new.is_behind) == ([1], 0, False)
    with path.open("ab") as writer:
        writer.write(whole[-20:])
    assert numbers(file.read()) == [2]


@pytest.mark.parametrize("num_then", [2, 5, 8])
def test_a_truncated_file_begins_anew_however_far_it_has_grown_since(path: Path, num_then: int) -> None:
    file = MetricsFile(path)
    path.write_bytes(lines(STEPS[:5]))
    file.read()
    again = [each | {"loss": 7.25} for each in STEPS[:num_then]]
    path.write_bytes(lines(again))
    os.utime(path, (1, 1))
    new = file.read()
    assert (new.begins_anew, new.events) == (True, again)


def test_a_replaced_file_begins_anew(path: Path, tmp_path: Path) -> None:
    file = MetricsFile(path)
    path.write_bytes(lines(STEPS[:5]))
    file.read()
    (tmp_path / "draft").write_bytes(lines(STEPS[:6]))
    (tmp_path / "draft").replace(path)
    new = file.read()
    assert (new.begins_anew, numbers(new)) == (True, [1, 2, 3, 4, 5, 6])
    assert not file.read().begins_anew


def test_a_folder_that_vanishes_gives_nothing_until_it_is_back(path: Path) -> None:
    file = MetricsFile(path)
    path.write_bytes(lines(STEPS[:2]))
    file.read()
    path.unlink()
    assert file.read() == NewEvents(exists=False)
    path.write_bytes(lines(STEPS[:1]))
    new = file.read()
    assert (new.begins_anew, numbers(new)) == (True, [1])


def test_lines_that_are_no_events_are_counted(path: Path) -> None:
    damaged = b"\0\0\0\0\n[1]\n{}\n\n" + b"[" * 100_000 + b'\n{"event": "step", "time": null}\n\xff\n'
    path.write_bytes(lines(STEPS[:1]) + damaged + lines(STEPS[1:2]))
    new = MetricsFile(path).read()
    assert (numbers(new), new.num_damaged) == ([1, 2], 7)


def test_only_a_newline_ends_a_line(path: Path) -> None:
    odd = event("notice", 1.0, text="a\u2028b\x85c\x0cd\r\x00")
    path.write_bytes(lines([odd]))
    assert MetricsFile(path).read().events == [odd]


def test_a_long_file_is_read_in_chunks_of_whole_lines(path: Path) -> None:
    long = [event("eval", 1.0, step=9, answers="x" * 5000)]
    path.write_bytes(lines([*STEPS[:4], *long, *STEPS[4:]]))
    file = MetricsFile(path)
    found, is_behind, num_reads = [], True, 0
    while is_behind:
        new = file.read(max_bytes=700)
        found += numbers(new)
        is_behind, num_reads = new.is_behind, num_reads + 1
    assert found == [1, 2, 3, 4, 9, 5, 6, 7, 8]
    assert 3 < num_reads < 12


def test_the_tail_of_a_file_begins_after_the_end_of_a_line(path: Path) -> None:
    path.write_bytes(lines(STEPS))
    file = MetricsFile(path, tail_bytes=len(lines(STEPS[-2:])) + 10)
    assert (numbers(file.read()), file.skipped_head) == ([7, 8], True)
    with path.open("ab") as writer:
        writer.write(lines([step(9, 109.0)]))
    assert numbers(file.read()) == [9]
    short = MetricsFile(path, tail_bytes=10**6)
    assert (len(short.read().events), short.skipped_head) == (9, False)
