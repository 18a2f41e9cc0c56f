"""A reader that stops reading ends a command in silence."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from shardtune.processes import run_piped

def main():
    for number in range(100_000):
        print(number)
    return 3

run_piped(main)
"""


def run(reader: str) -> subprocess.CompletedProcess[str]:
    line = ["bash", "-c", f'"$0" -c "$1" {reader}; echo code ${{PIPESTATUS[0]}}', sys.executable, PROGRAM]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)


def test_a_broken_pipe_is_no_error_and_the_code_of_a_command_that_is_read_is_its_own() -> None:
    broken, whole = run("| head -1"), run("| tail -1")
    assert (broken.stdout, broken.stderr) == ("0\ncode 0\n", "")
    assert (whole.stdout, whole.stderr) == ("99999\ncode 3\n", "")


def test_every_command_of_the_trainer_ends_like_this() -> None:
    for path in [*(ROOT / "trainer/commands").rglob("*.py"), ROOT / "trainer/export/export.py"]:
        if end := re.search(r'^if __name__ == "__main__":\n(.*)', path.read_text(), re.MULTILINE):
            assert end[1] == "    run_piped(main)", path
