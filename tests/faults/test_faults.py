"""Whatever happens to a run, it ends with the unbroken one's weights; `python -m tests.faults` does more rounds."""

from pathlib import Path

import pytest

from tests.faults import harness, launches, small_disk
from tests.faults.launches import Place


@pytest.mark.timeout(900)
def test_thirty_six_faults_change_nothing_of_what_is_learned(tmp_path: Path) -> None:
    bench = harness.make_bench(tmp_path / "data")
    said = list(harness.rounds(bench, tmp_path, range(36), in_a_row=6))
    assert len(said) == 36
    for name in harness.NAMES:
        assert sum(f": {name} on rank" in text for text in said) == 3, name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    # The forked ranks above train by DeepSpeed; here the launcher is what is tested.
    return launches.make_place(tmp_path_factory.mktemp("launches"), "engine.deepspeed=null")


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("seed", "blow"),
    [
        (0, "kill -9 of rank"),
        (1, "kill -9 of the launcher"),
        (2, "kill -9 of every process"),
        (3, "SIGTERM to the launcher"),
        (5, "kill -9 of the launcher, in start-up"),
    ],
)
def test_a_real_run_that_is_killed_goes_on_as_the_same_run(place: Place, seed: int, blow: str) -> None:
    (said,) = launches.rounds(place, [seed])
    assert said.startswith(f"seed {seed}: {blow}")


@pytest.mark.timeout(600)
def test_a_disk_that_is_really_full_or_read_only_costs_its_checkpoints_and_nothing_else(tmp_path: Path) -> None:
    said = list(small_disk.rounds(tmp_path, range(3)))
    assert len(said) == 3
    for name, text in zip(small_disk.NAMES, said, strict=True):
        assert f": disk {name}" in text and "not saved" in text
