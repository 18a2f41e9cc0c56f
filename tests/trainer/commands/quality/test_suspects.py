"""`shardtune suspects`: planted errors are found, and what is found is the same on any number of ranks."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardtune.trainer.commands.quality.judged_runs import judge_run, open_run
from shardtune.trainer.commands.quality.suspects import list_suspects, main
from shardtune.trainer.distributed.ranks import Ranks
from shardtune.trainer.evaluation.suspects.listing import Suspect
from tests.support.ranks import run_ranks
from tests.support.runs import tiny_recipe, write_tiny
from tests.support.tiny import BAD, GOOD, PLAIN, write_causal, write_documents
from tests.trainer.commands.quality.conftest import trained
from tests.trainer.tasks.token_classification.test_token_classification import write_tagged

NUM_ROWS, SHARE = 240, 0.1


def reviews(num_rows: int, seed: str) -> Iterator[dict[str, str]]:
    """Short reviews, most of whose words decide the label."""
    chosen = random.Random(seed)
    for at in range(num_rows):
        words = [*chosen.choices((GOOD, BAD)[at % 2], k=4), *chosen.choices(PLAIN, k=3)]
        yield {"text": " ".join(chosen.sample(words, len(words))), "label": ("positive", "negative")[at % 2]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews, of which some training rows have the wrong label; `planted.json` lists their lines."""
    folder = write_tiny(tmp_path_factory.mktemp("tiny"))
    for split, num_rows in (("train", NUM_ROWS), ("dev", 60), ("test", 60)):
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in reviews(num_rows, split)))
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    planted = sorted(random.Random(0).sample(range(NUM_ROWS), int(SHARE * NUM_ROWS)))
    for at in planted:
        rows[at]["label"] = {"positive": "negative", "negative": "positive"}[rows[at]["label"]]
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "planted.json").write_text(json.dumps([at + 1 for at in planted]))
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Path:
    return trained(tiny_recipe(folder, "train.num_epochs=5"), folder / "classifier")


@pytest.fixture(scope="module")
def folds(folder: Path) -> list[Path]:
    return [
        trained(
            tiny_recipe(folder, "train.num_epochs=5", f"data.test={{fraction: 0.5, fold: {fold}}}"),
            folder / f"fold-{fold}",
        )
        for fold in range(2)
    ]


def lines_of(found: list[Suspect], split: str = "train") -> set[int]:
    return {int(suspect.place.rpartition(":")[2]) for suspect in found if suspect.split == split}


def found_in(run_dir: Path, folds: list[Path], out: Path, world_size: int = 1, *, most: int = 5) -> list[Suspect]:
    exported, of_folds = open_run(run_dir), [open_run(fold) for fold in folds]

    def body(ranks: Ranks) -> list[Suspect]:
        return list_suspects(exported, of_folds, ranks, most=most, out=out)

    return run_ranks(body, world_size=world_size)[0]


def test_planted_label_errors_are_found_by_models_that_have_not_seen_them(
    folder: Path, classifier: Path, folds: list[Path], tmp_path: Path
) -> None:
    found = found_in(classifier, folds, tmp_path / "out.jsonl")
    planted = {*json.loads((folder / "planted.json").read_text())}
    right = lines_of(found) & planted
    assert len(right) / len(planted) >= 0.8
    assert len(right) / len(lines_of(found)) >= 0.9
    assert all(suspect.is_unseen for suspect in found)
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["place"] for row in written] == [suspect.place for suspect in found]
    assert (classifier / "suspects.jsonl").read_text() == (tmp_path / "out.jsonl").read_text()
    rows = (folder / "train.jsonl").read_text().splitlines()
    for suspect in found:
        if suspect.split == "train":
            row = json.loads(rows[int(suspect.place.rpartition(":")[2]) - 1])
            assert (suspect.label, suspect.text) == (row["label"], row["text"])
            assert suspect.predicted != suspect.label
    order = [suspect.label_probability for suspect in found]
    assert order == sorted(order)


def test_each_training_row_is_judged_once_by_the_fold_that_has_not_seen_it(classifier: Path, folds: list[Path]) -> None:
    exported, of_folds = open_run(classifier), [open_run(fold) for fold in folds]

    def body(ranks: Ranks) -> list[tuple[str, list[str]]]:
        parts = judge_run(exported, of_folds, ranks)
        return [(part.split, [part.rows.place(row) for row in range(part.num_rows)]) for part in parts]

    ((*others, (_, first), (_, second)),) = run_ranks(body, world_size=1)
    assert sorted(int(place.rpartition(":")[2]) for place in [*first, *second]) == list(range(1, NUM_ROWS + 1))
    assert [split for split, _ in others] == ["dev", "test"]


def test_what_is_found_is_the_same_on_any_number_of_ranks(classifier: Path, folds: list[Path], tmp_path: Path) -> None:
    first, *others = (found_in(classifier, folds, tmp_path / "out.jsonl", world_size) for world_size in (1, 2, 3))
    for found in others:
        assert [(s.place, s.label, s.predicted) for s in found] == [(s.place, s.label, s.predicted) for s in first]
        assert [s.loss for s in found] == pytest.approx([s.loss for s in first], rel=1e-5)


def test_without_folds_the_rows_that_the_model_would_label_otherwise_are_listed_and_it_is_said_to_be_less_sure(
    folder: Path, classifier: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(classifier), "--top=3", "--device=cpu"]) == 0
    shown = capsys.readouterr().out
    found = [json.loads(line) for line in (classifier / "suspects.jsonl").read_text().splitlines()]
    assert f"train: {sum(row['split'] == 'train' for row in found)} suspicious rows of {NUM_ROWS}" in shown
    assert f"(the first 3 of {len(found)})" in shown and found[0]["place"] in shown
    assert "(seen in training)" in shown and "--folds=5 trains five\nmore models" in shown
    assert not any(row["is_unseen"] for row in found if row["split"] == "train")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out={tmp}/none/out.jsonl"], "--out: there is no folder"),
        (["--fold={tmp}"], "not a run directory"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    classifier: Path, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(classifier), "--device=cpu", *(word.format(tmp=tmp_path) for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_word_is_named_whose_tag_is_suspected(folder: Path, tmp_path: Path) -> None:
    overrides = ["task={kind: token_classification, stride: 2}", "data.max_tokens=20", "train.max_steps=6"]
    for split, num_rows in (("train", 67), ("dev", 29)):
        write_tagged(folder / f"tagged-{split}.jsonl", num_rows, seed=num_rows)
        overrides.append(f"data.{split}={folder}/tagged-{split}.jsonl")
    run_dir = trained(tiny_recipe(folder, *overrides, "data.test=null"), tmp_path / "tagger")
    found = found_in(run_dir, [], tmp_path / "out.jsonl")
    assert len(found) > 20 and len({suspect.place for suspect in found}) == len(found)
    for suspect in found:
        path, _, line = suspect.place.rpartition(":")
        row = json.loads(Path(path).read_text().splitlines()[int(line) - 1])
        tags = [tag for word, tag in zip(row["tokens"], row["tags"], strict=True) if suspect.word == word]
        assert suspect.label in tags and suspect.predicted != suspect.label


def test_rows_of_a_task_without_labels_are_listed_by_their_loss(folder: Path, tmp_path: Path) -> None:
    write_causal(folder / "causal", [*GOOD, *BAD, *PLAIN], chat_template=None)
    overrides = ["task={kind: language_modeling}", f"model.path={folder}/causal", "data.max_tokens=24"]
    for seed, split in enumerate(("train", "dev", "test")):
        write_documents(folder / f"texts-{split}.jsonl", 30, seed=seed)
        overrides.append(f"data.{split}={folder}/texts-{split}.jsonl")
    run_dir = trained(tiny_recipe(folder, *overrides, "train.max_steps=4"), tmp_path / "modeler")
    found = found_in(run_dir, [], tmp_path / "out.jsonl")
    assert len(found) == 5 and all(suspect.label is None for suspect in found)
    every = list_of_losses(run_dir)
    of_test = [suspect for suspect in highest(run_dir) if suspect.split == "test"]
    assert {suspect.place: suspect.loss for suspect in of_test} == pytest.approx(every, rel=1e-5)
    assert [suspect.loss for suspect in found] == sorted((s.loss for s in highest(run_dir)), reverse=True)[:5]


def highest(run_dir: Path) -> list[Suspect]:
    return found_in(run_dir, [], run_dir / "all.jsonl", most=1000)


def list_of_losses(run_dir: Path) -> dict[str, float]:
    """The mean loss per target of each test row, as the run itself wrote it."""
    sums: dict[str, list[float]] = {}
    for line in map(json.loads, (run_dir / "test_rows.jsonl").read_text().splitlines()):
        total = sums.setdefault(line["place"], [0.0, 0.0])
        total[0] += line["loss"] * line["targets"]
        total[1] += line["targets"]
    return {place: loss / targets for place, (loss, targets) in sums.items()}


def test_of_several_labels_the_one_is_named_that_should_be_there_or_not(folder: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        lines = []
        for row in map(json.loads, (folder / f"{split}.jsonl").read_text().splitlines()):
            labels = [row["label"], *(["plotted"] if "plot" in row["text"] else [])]
            lines.append(json.dumps({"text": row["text"], "label": labels}) + "\n")
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    data = [f"data.{split}={tmp_path}/{split}.jsonl" for split in ("train", "dev")]
    recipe = tiny_recipe(
        folder, "task={kind: classification, problem: multi_label}", *data, "data.test=null", "train.max_steps=30"
    )
    found = found_in(trained(recipe, tmp_path / "several"), [], tmp_path / "out.jsonl")
    assert found
    for suspect in found:
        path, _, line = suspect.place.rpartition(":")
        labels = json.loads(Path(path).read_text().splitlines()[int(line) - 1])["label"]
        assert suspect.label is not None and suspect.predicted is not None and suspect.word is None
        name = suspect.label.removeprefix("not ")
        assert {suspect.label, suspect.predicted} == {name, f"not {name}"}
        assert (suspect.label == name) == (name in labels)
