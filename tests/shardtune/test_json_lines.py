"""A line of JSON ends at "\\n" and nowhere else."""

import json
from pathlib import Path

from shardtune.json_lines import complete_lines, json_line

ENDS = "".join(chr(code) for code in (0x0A, 0x0B, 0x0C, 0x0D, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029))
"""All that str.splitlines divides at."""


def test_every_reader_finds_the_same_lines(tmp_path: Path) -> None:
    values = [{"text": f"a{end}b", "number": number} for number, end in enumerate(ENDS)]
    text = "".join(map(json_line, values))
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == values
    assert [json.loads(line) for line in complete_lines(tmp_path / "a.jsonl")] == values


def test_lines_of_others_are_read_as_they_are_meant(tmp_path: Path) -> None:
    values = [{"text": f"a{end}b"} for end in ENDS]
    lines = [json.dumps(value, ensure_ascii=False) for value in values]
    (tmp_path / "a.jsonl").write_bytes("".join(f"{line}\n" for line in lines).encode() + b'{"text": "\xe2\x80')
    assert [json.loads(line) for line in complete_lines(tmp_path / "a.jsonl")] == values
