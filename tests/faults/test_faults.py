"""Whatever happens to a run, it ends with the unbroken one's weights; `python -m tests.faults` does more rounds."""

from pathlib import Path

import pytest

from tests.faults.harness import NAMES, make_bench, rounds


@pytest.mark.timeout(900)
def test_thirty_six_faults_change_nothing_of_what_is_learned(tmp_path: Path) -> None:
    bench = make_bench(tmp_path / "data")
    said = list(rounds(bench, tmp_path, number=36, seed=0, in_a_row=6))
    assert len(said) == 36
    for name in NAMES:
        assert sum(text.startswith(f"{name} on rank") for text in said) == 3, name
