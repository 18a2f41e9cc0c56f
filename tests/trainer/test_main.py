"""What a rank that was started by hand writes, or leaves alone, before its start owns the run directory."""

import json
import sys
from pathlib import Path

import pytest

from shardtune.recipe.load import parse_recipe
from shardtune.run_dir.exit_codes import EXIT_RESUME, EXIT_USER
from shardtune.run_dir.files import LEASE, STOP, failure_path
from shardtune.run_dir.lease import FileLease, take_lease
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.__main__ import _end, _explain, _parse, _Process, main
from shardtune.trainer.distributed.rank_env import start_name
from shardtune.trainer.distributed.stop import StopAsked
from tests.support.runs import RECIPE


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run directory whose stop a user has requested."""
    recipe = parse_recipe(RECIPE.format(folder=tmp_path), [f"data={{train: {tmp_path}/x.csv}}", "model.path=org/name"])
    (tmp_path / "x.csv").write_text("text,label\na,b\n")
    write_run_dir(Run(recipe, tmp_path / "run", tmp_path))
    (tmp_path / "run" / STOP).touch()
    return tmp_path / "run"


@pytest.fixture
def lease(run_dir: Path) -> FileLease:
    """Of another start, which lives."""
    return take_lease(run_dir / LEASE, "7")


def contents(run_dir: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("lease")
@pytest.mark.parametrize("words", [[], ["--prepare=2"], ["report.wandb=offline"]])
def test_ranks_by_hand_that_are_refused_have_written_nothing(
    run_dir: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run_dir)
    assert main([str(run_dir), *words]) == EXIT_USER
    assert capsys.readouterr().err.count("is owned by job 7, process") == 1
    assert contents(run_dir) == before


def test_ranks_by_hand_train_one_seed_and_say_how_several_are_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.csv").write_text("text,label\na,b\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path))
    words = [f"data={{train: {tmp_path}/x.csv}}", "model.path=org/name", "train.seeds=[1,2]"]
    assert main([str(recipe), *words, f"--run-dir={tmp_path / 'run'}"]) == EXIT_USER
    said = capsys.readouterr().err
    assert said.startswith("train.seeds: ") and "use shardtune run RECIPE" in said and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def rank(run_dir: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> _Process:
    for name, value in {"RANK": str(number), "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    return _Process(_parse([str(run_dir)]), sys.stderr, run_dir)


@pytest.mark.usefixtures("lease")
def test_a_peer_of_a_refused_rank_records_no_failure_and_takes_no_stop_request(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(run_dir)
    for error, code in ((StopAsked("SIGTERM"), EXIT_RESUME), (ValueError("no"), 1)):
        assert _end(error, rank(run_dir, 1, monkeypatch)) == code
    assert contents(run_dir) == before


def test_a_peer_of_the_rank_that_owns_the_run_records_its_failure(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = rank(run_dir, 1, monkeypatch)
    lease = take_lease(run_dir / LEASE, start=start_name())
    assert _end(ValueError("no"), peer) == 1
    assert failure_path(run_dir, 1).exists()
    lease.close()


def test_a_failure_is_recorded_with_the_machines_number_of_the_gpu(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = rank(run_dir, 1, monkeypatch)
    assert _end(ValueError("no"), failed) == 1
    assert "gpu" not in json.loads(failure_path(run_dir, 1).read_text())
    failed.gpu = 6
    assert _end(ValueError("no"), failed) == 1
    assert json.loads(failure_path(run_dir, 1).read_text())["gpu"] == 6


def test_instances_of_one_gpu_that_nccl_refuses_are_explained() -> None:
    error = RuntimeError(
        "NCCL error in: ProcessGroupNCCL.cpp:1727, invalid usage, NCCL version 2.27.5\n"
        "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
        "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 7000"
    )
    code, text = _explain(error)
    assert (code, len(text.splitlines())) == (EXIT_USER, 1)
    assert text.startswith(
        "two ranks use one GPU (Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 7000)"
    )
    assert "NCCL connects instances of one GPU from version 2.30 on" in text and "job.ranks=1" in text
