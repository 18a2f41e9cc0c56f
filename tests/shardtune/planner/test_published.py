"""The planner's score beside published figures is what docs/planner.md says, and the split was drawn as it says."""

import re
from pathlib import Path

import pytest

from benchmarks.planner import __main__ as table
from benchmarks.planner.published import FOLDER, held_out
from benchmarks.planner.throughput import compare

PAGE = Path(__file__).parents[3] / "docs/planner.md"


def test_the_errors_are_within_their_bounds_and_as_documented(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert table.main([f"--svg={tmp_path / 'plot.svg'}"]) == 0
    printed = capsys.readouterr().out
    page = PAGE.read_text(encoding="utf-8")
    scores = re.findall(r"^([a-zA-Z, ]+?) +(\d+) +([\d.]+%) +([\d.]+%) +([\d.]+%)$", printed, re.MULTILINE)
    assert len(scores) == 5
    for name, *figures in scores:
        assert f"| {name} | {' | '.join(figures)} |" in page
    assert (tmp_path / "plot.svg").read_bytes() == (PAGE.parent / "planner.svg").read_bytes()


def test_the_rows_that_are_held_out_are_those_of_the_seed() -> None:
    lines = (FOLDER / "throughput.csv").read_text(encoding="utf-8").splitlines()[1:]
    parts = dict(reversed(line.split(",", 1)) for line in lines)
    assert held_out(list(parts)) == {row for row, part in parts.items() if part == "held_out"}
    assert len(compare(held_out=True)) == 35


def test_an_error_above_its_bound_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bound = table.BOUNDS["memory, measured"]
    monkeypatch.setitem(table.BOUNDS, "memory, measured", type(bound)(0.0, 0.0, 0.0))
    assert table.main([]) == 1
    assert "memory, measured: above its bound" in capsys.readouterr().out
