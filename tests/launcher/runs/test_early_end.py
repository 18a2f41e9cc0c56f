"""A job that began and recorded no start says why in its output."""

from pathlib import Path

import pytest

from shardtune.launcher.runs.early_end import early_end


def test_the_exit_code_and_the_last_lines_of_the_output_are_told(tmp_path: Path) -> None:
    output = tmp_path / "slurm-25.out"
    assert early_end("25", output, "FAILED, exit code 3", is_requeued=False) is None  # it never began
    output.write_text("")
    silent = "job 25 ended before training began (FAILED, exit code 3); it printed nothing"
    assert early_end("25", output, "FAILED, exit code 3", is_requeued=False) == silent
    output.write_text("a\nmodule: no cuda/13\n\nshardtune: site.sh: the preamble ended on node1\nb\n")
    told = "module: no cuda/13; site.sh: the preamble ended on node1; b"
    text = f"job 25 ended before training began (FAILED, exit code 3): {told}"
    assert early_end("25", output, "FAILED, exit code 3", is_requeued=True) == text


@pytest.mark.parametrize(
    ("last_word", "is_requeued", "is_told"),
    [
        ("CANCELLED", False, False),
        ("NODE_FAIL", False, False),
        ("FAILED", True, True),
        (None, False, True),
        (None, True, False),  # the output may be that of the start before
    ],
)
def test_what_slurm_ended_is_no_early_end(
    tmp_path: Path, last_word: str | None, is_requeued: bool, is_told: bool
) -> None:
    (tmp_path / "o").write_text("x\n")
    assert (early_end("25", tmp_path / "o", last_word, is_requeued=is_requeued) is not None) == is_told
