"""The command trains both sides on a tiny model, keeps what is finished, and writes its table, numbers and picture."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from benchmarks.quality import peer
from benchmarks.quality.__main__ import main
from benchmarks.quality.cases import Case, write_rows
from benchmarks.quality.sides import OURS, PEER
from shardtune.recipe.load import load_recipe
from shardtune.run_dir.run import Run, write_run_dir
from shardtune.trainer.commands import predict
from tests.support.runs import train
from tests.support.tiny import write_encoder, write_reviews

NER = [{"tokens": ["good", "film"], "tags": ["O", "B-THING"]}, {"tokens": ["it", "ends"], "tags": ["O", "O"]}]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for split, rows in (("train", 40), ("dev", 10), ("test", 12)):
        write_reviews(tmp_path / f"{split}.jsonl", rows, seed=rows)
        (tmp_path / "ner").mkdir(exist_ok=True)
        write_rows(tmp_path / "ner" / f"{split}.jsonl", NER * (rows // 2))
    write_encoder(tmp_path / "encoder")
    yield tmp_path
    AcceleratorState._reset_state(reset_partial_state=True)


def in_this_process(command: Sequence[str], log: Path, threads: int) -> float:
    """Carries out the commands of either side without starting a process of its own, on one rank."""
    module, *words = command[2:]
    if module == "benchmarks.quality.peer":
        peer.main(words)
    elif words[0] == "predict":
        assert predict.main(words[1:]) == 0
    else:
        _, path, *overrides, run_dir = words
        own = Path(run_dir.removeprefix("--run-dir="))
        recipe = load_recipe(Path(path), overrides)
        write_run_dir(Run(recipe, own, Path(path)))
        assert train(recipe, own, world_size=1)[0] == [True]
    return 1.0


def refuse(command: Sequence[str], log: Path, threads: int) -> float:
    raise AssertionError(f"trained again: {command}")


def test_both_sides_are_trained_once_and_compared_on_the_same_rows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    cases = [
        Case("reviews", "classification", "accuracy", 1e-3, lambda: folder, max_tokens=40),
        Case("entities", "token_classification", "f1", 1e-3, lambda: folder / "ner", max_tokens=40),
    ]
    words = ["--quick", "--seeds", "1", "--ranks", "1", "--precision", "fp32", "--model", str(folder / "encoder")]
    words += ["--folder", str(folder / "quality")]
    assert main(words, cases=cases, execute=in_this_process) == 0
    said = capsys.readouterr()
    assert "[4/4, " in said.err and "entities, seed 1, shardtune: dev f1 " in said.err
    numbers = json.loads((folder / "quality" / "quality.json").read_text())
    for one in numbers["compared"]:
        assert set(one["spreads"]) == {OURS, PEER} and one["train_s"][OURS] > 0 < one["train_s"][PEER]
        assert len(one["curve"]) == 2  # of two steps
    kept = json.loads((folder / "quality" / "reviews" / f"{OURS}-1.json").read_text())
    assert len(kept["answers"]) == 12 and set(kept["answers"]) <= {"negative", "positive"}
    assert (folder / "quality" / "quality.svg").read_text().count("<svg") == 3

    assert main(words, cases=cases, execute=refuse) == 0
    assert said.out.endswith(capsys.readouterr().out)  # before it, Trainer has printed
    with pytest.raises(SystemExit) as ended:
        main([*words[:-2], "--folder", str(folder / "quality"), "--precision", "bf16"], cases=cases, execute=refuse)
    assert ended.value.code == 2 and "other settings" in capsys.readouterr().err
