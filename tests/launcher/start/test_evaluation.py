"""How many ranks evaluate, on what, and what is said if they fail."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from shardtune.errors import LaunchError
from shardtune.launcher.plan.job import Machine
from shardtune.launcher.start import execute
from shardtune.launcher.start.evaluation import EVALUATE, PREDICT, plan_evaluation, run_sharing
from shardtune.run_dir.files import failure_path

RECIPE = "task: {kind: classification}\nmodel: {path: org/name}\ndata: {train: train.jsonl}\n"
GPUS = Machine(4, 8, gpus=("0", "1", "2", "3"))


@pytest.mark.parametrize(
    ("machine", "device", "asked", "expected"),
    [
        (GPUS, "auto", None, ("cuda", 4)),
        (GPUS, "auto", 2, ("cuda", 2)),
        (GPUS, "cpu", None, ("cpu", 1)),
        (Machine(0, 8), "auto", None, ("cpu", 1)),
        (Machine(0, 8), "cuda", None, ("cpu", 1)),
        (Machine(0, 8), "auto", 3, ("cpu", 3)),
    ],
)
def test_there_is_a_rank_for_each_gpu_or_one_without_any(
    machine: Machine, device: str, asked: int | None, expected: tuple[str, int]
) -> None:
    plan = plan_evaluation(device, machine, asked)
    assert (plan.device, plan.num_ranks) == expected
    assert plan.environment["OMP_NUM_THREADS"] == str(8 // expected[1])


def test_more_ranks_than_gpus_and_a_driver_that_does_not_answer_are_refused() -> None:
    with pytest.raises(LaunchError, match="5 ranks need 5 GPUs, but there are 4"):
        plan_evaluation("auto", GPUS, 5)
    with pytest.raises(LaunchError, match="nvidia-smi failed"):
        plan_evaluation("auto", Machine(0, 8, fault="nvidia-smi failed"), None)


class Ranks:
    """In the place of run_ranks: prepares nothing, and ranks that fail with this text."""

    def __init__(self, text: str, code: int) -> None:
        self._text, self._code = text, code
        self.lines: list[Sequence[str]] = []

    def __call__(self, argv: Sequence[str], environment: Mapping[str, str], errors: Path | None = None) -> int:
        self.lines.append(argv)
        folder = next((word.partition("=")[2] for word in argv if word.startswith("--prepared=")), None)
        if folder is None:
            return 0
        assert errors is not None
        errors.write_text("torchrun's own traceback")
        if self._text:
            failure = {"rank": 1, "host": "here", "time": 2e9, "code": self._code, "text": self._text}
            failure_path(Path(folder), 1).write_text(json.dumps(failure))
        return 1


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [("its weights cannot be read", 2, "its weights cannot be read\n"), ("", 1, "torchrun's")],
)
def test_the_rows_are_prepared_first_and_a_rank_that_fails_says_why(
    text: str, code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(RECIPE)
    ranks = Ranks(text, code)
    monkeypatch.setattr(execute, "run_ranks", ranks)
    monkeypatch.setattr(execute, "find_machine", lambda: Machine(0, 8))
    assert run_sharing(EVALUATE, tmp_path, [str(tmp_path), "--data=x"], 2) == code
    assert said in capsys.readouterr().err
    first, second = ranks.lines
    assert "--data=x" in first and any(word.startswith("--prepare=") for word in first)
    assert "--nproc-per-node=2" in second and "--device=cpu" in second
    ranks.lines.clear()
    assert run_sharing(EVALUATE, tmp_path, [str(tmp_path), "--data=x"], None) == 0
    (line,) = ranks.lines
    assert [*line[-3:]] == [str(tmp_path), "--data=x", "--device=cpu"]


def test_what_the_ranks_leave_is_said_and_a_divided_model_has_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[Sequence[str]] = []

    def run_ranks(argv: Sequence[str], environment: Mapping[str, str], errors: Path | None = None) -> int:
        lines.append(argv)
        for word in argv:
            if word.startswith("--prepared="):
                (Path(word.partition("=")[2]) / "said.txt").write_text("7 predictions written to out.jsonl\n")
        return 0

    monkeypatch.setattr(execute, "run_ranks", run_ranks)
    monkeypatch.setattr(execute, "find_machine", lambda: GPUS)
    assert run_sharing(PREDICT, tmp_path, [str(tmp_path), "--file=x"], 2) == 0
    assert capsys.readouterr().err == "7 predictions written to out.jsonl\n"
    lines.clear()
    assert run_sharing(PREDICT, tmp_path, [str(tmp_path), "--file=x"], None, is_split=True) == 0
    (line,) = lines
    assert [*line[-3:]] == ["--file=x", "--device=cuda", "--split-model"]
