"""The list of runs at any width."""

import pytest
from rich.cells import cell_len

from shardtune.launcher.runs.terminal.run_table import RunRow, run_lines

LONG = RunRow(
    "chat-qwen2.5-7b-instruct-lora-r16-5e1c", "running", "1234_5", 123_456, 1_000_000, 345_678.0, 1.23456, 0.91234,
    0.92, 1_234_567.0, 3,
)  # fmt: skip
CHINESE = RunRow("翻译-中英-2c4d", "failed", "", 4, None, None, None, None, None, None)
NEW = RunRow("new", "…", "", None, None, None, None, None, None, None)


@pytest.mark.parametrize("width", [40, 60, 79, 80, 100, 120, 200])
def test_every_line_has_the_width_of_the_terminal(width: int) -> None:
    head, lines = run_lines([LONG, CHINESE, NEW], 1, {0: "cyan"}, width, "dev/f1_macro")
    assert {cell_len(line.plain) for line in [head, *lines]} == {width}
    assert lines[0].plain.startswith(" ●chat") and lines[1].plain.startswith("▸ 翻译")


def test_80_columns_have_room_for_what_matters() -> None:
    head, (line, *_) = run_lines([LONG, CHINESE], 0, {}, 80, "dev/f1")
    assert head.plain.split() == ["RUN", "STATE", "STEP", "LEFT", "LOSS", "F1", "TOK/S"]
    assert line.plain.split()[2:] == ["running", "123456/1000000", "96:01:18", "1.2346", "0.9123", "1235k"]


def test_a_wide_terminal_has_the_whole_name_and_everything_else() -> None:
    head, (line, *_) = run_lines([LONG], 0, {}, 160, "dev/f1")
    assert head.plain.split()[1:] == ["STATE", "STEP", "DONE", "LEFT", "LOSS", "F1", "BEST", "TOK/S", "WARN", "JOB"]
    assert line.plain.split()[1:3] == [LONG.name, "running"]
    assert "━─" in line.plain and line.plain.split()[-3:] == ["1235k", "3", "1234_5"]
