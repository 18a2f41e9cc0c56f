"""From files to the rows that are prepared: whatever is guessed, held out or dropped is noted."""

import gzip
import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from shardtune.errors import DataError
from shardtune.trainer.data.prepare.fingerprints import Fingerprints
from shardtune.trainer.data.prepare.prepare import fingerprint, prepare
from shardtune.trainer.data.prepare.sources import sources_content
from shardtune.trainer.data.prepare.splits import SplitRows, read_splits
from shardtune.trainer.data.prepare.work_queue import WorkQueue
from tests.support.runs import tiny_recipe, write_tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dev.jsonl").write_text('{"text": "a plot", "label": "positive"}\n')
    return tmp_path


def jsonl(*rows: dict[str, Any] | str) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def reviews(*texts: str) -> list[dict[str, Any] | str]:
    return [{"text": text, "label": ("positive", "negative")[at % 2]} for at, text in enumerate(texts)]


def read_from(folder: Path, *overrides: str) -> tuple[SplitRows, list[str]]:
    said: list[str] = []
    recipe = tiny_recipe(folder, "data.test=null", "data.dev=null", *overrides)
    return read_splits(recipe, said.append, WorkQueue(Path(mkdtemp(dir=folder)))), [
        text.replace(f"{folder}/", "") for text in said
    ]


def texts(found: SplitRows, split: str = "train") -> list[str]:
    return [row.values["text"] for row in found.rows[split]]


def test_sources_of_many_formats_are_read_one_after_the_other_each_by_its_own_columns(folder: Path) -> None:
    (folder / "a.csv").write_text("review,stars\ngood,positive\nbad,negative\n")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(*reviews("fine", "dull")).encode()))
    (folder / "c").mkdir()
    (folder / "c" / "1.tsv").write_text("sentence\tclass\ngreat\tpositive\n")
    (folder / "c" / "2.tsv").write_text("sentence\tclass\npoor\tnegative\n")
    found, said = read_from(
        folder,
        f"data.train=[{{path: {folder}/a.csv, name: stars, columns: {{text: review, label: stars}}}}, "
        f"{folder}/b.jsonl.gz, {{path: {folder}/c, weight: 2}}]",
    )
    assert texts(found) == ["good", "bad", "fine", "dull", "great", "poor"]
    assert [row.source for row in found.rows["train"]] == [0, 0, 1, 1, 2, 2]
    assert [(source["name"], source["rows"]) for source in found.report["sources"]] == [
        ("stars", 2), (f"{folder}/b.jsonl.gz", 2), (f"{folder}/c", 2),
    ]  # fmt: skip
    assert said == [
        "c: 2 files: 1.tsv, 2.tsv",
        "c: using column sentence as text, class as label (a guess; set data.columns to change it)",
    ]
    assert [text.replace(f"{folder}/", "") for text in found.report["notes"]] == said
    assert found.facts["label_counts"]["train"] == {"positive": 3, "negative": 3}


def test_a_guess_can_be_forbidden_and_is_not_made_between_two(folder: Path) -> None:
    (folder / "train.csv").write_text("review,label\ngood,positive\nbad,negative\n")
    found, _ = read_from(folder, f"data.train={folder}/train.csv")
    assert texts(found) == ["good", "bad"]
    with pytest.raises(DataError, match=r"train.csv: no column 'text'; found: review, label\. Name yours"):
        read_from(folder, f"data.train={folder}/train.csv", "data.guess_columns=false")
    (folder / "train.csv").write_text("review,comment,label\ngood,x,positive\nbad,x,negative\n")
    with pytest.raises(DataError, match=r"train.csv: no column 'text'; found: review, comment, label\. Name yours"):
        read_from(folder, f"data.train={folder}/train.csv")


def test_a_missing_column_is_reported_with_the_names_of_the_file_not_with_the_guessed_ones(folder: Path) -> None:
    (folder / "train.csv").write_text("article,category\ngood,positive\nbad,negative\n")
    with pytest.raises(DataError, match=r"train.csv: no column 'text'; found: article, category\. Name yours"):
        read_from(folder, f"data.train={folder}/train.csv")


BAD = jsonl(
    *reviews("good", "bad"),
    '{"text": "cut',
    {"text": "no label"},
    {"text": "", "label": "positive"},
    {"text": "fine", "label": "positive"},
    {"text": 7, "label": {"a": 1}},
    '{"text": "a", "text": "b"}',
    {"text": None, "label": "negative"},
)


def test_bad_rows_are_an_error_and_all_are_reported(folder: Path) -> None:
    (folder / "train.jsonl").write_text(BAD)
    with pytest.raises(DataError) as raised:
        read_from(folder)
    found = [line.split("train.jsonl:")[1][:2] for line in str(raised.value).splitlines()]
    assert found == ["3:", "8:", "4:", "5:", "7:", "7:", "9:"]  # first those that are no rows
    (folder / "train.jsonl").write_text("".join(line + "\n" for line in BAD.splitlines() if "cut" not in line))
    with pytest.raises(DataError):
        read_from(folder)


def test_unreadable_rows_and_bad_rows_are_reported_together(folder: Path) -> None:
    (folder / "train.jsonl").write_text(
        jsonl(*reviews("good", "bad"), '{"text": "x",', {"text": 5, "label": "positive"})
    )
    (folder / "more.jsonl").write_text(jsonl(*reviews("fine"), "{"))
    with pytest.raises(DataError) as raised:
        read_from(folder, f"data.train=[{folder}/train.jsonl, {folder}/more.jsonl]")
    lines = str(raised.value).replace(f"{folder}/", "").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["train.jsonl:3", "more.jsonl:2", "train.jsonl:4"]
    assert "not JSON" in lines[0] and "text" in lines[2]


def test_skipped_rows_are_counted_by_what_is_wrong_and_the_first_are_shown(folder: Path) -> None:
    (folder / "train.jsonl").write_text(BAD)
    (folder / "dev.jsonl").write_text(jsonl({"text": "new", "label": "neutral"}, *reviews("warm"), "{"))
    found, said = read_from(folder, "data.on_bad_row=skip", f"data.dev={folder}/dev.jsonl")
    assert texts(found) == ["good", "bad", "fine"]
    assert texts(found, "dev") == ["warm"]
    bad = found.report["bad_rows"]
    assert bad["rows"] == {"train": 6, "dev": 2}
    assert bad["reasons"] == {
        "not JSON: unterminated string": 1,
        "the key … occurs twice in one object": 1,
        "not JSON: expecting property name enclosed in double quotes": 1,
        "no label": 1,
        "text is empty": 1,
        "text: expected a text": 2,
        "label … is not in the training rows": 1,
    }
    assert bad["first"][0] == f"{folder}/train.jsonl:3: not JSON: unterminated string (character 10 of the line)"
    assert len(bad["first"]) == 9  # two of them of one row
    (note,) = [
        text for text in said if text.startswith("rows skipped (data.on_bad_row): 6 of train, 2 of dev: 2 x text")
    ]
    assert "the first ones:\n  train.jsonl:3: not JSON" in note
    assert found.facts["label_counts"] == {"train": {"positive": 2, "negative": 1}, "dev": {"positive": 1}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"text": "a"}\n{"text": 1}\n', "train.jsonl: no column 'label'"),
        ("x\ny\n", "train: no rows left: all 2 are bad:\n.*train.jsonl:1: not JSON: expecting value"),
        ('{"text": "", "label": "x"}\n', "train: no rows left: all 1 are bad:\n.*train.jsonl:1: text is empty"),
        (jsonl(*reviews("a")), "every row has the label 'positive'"),
        ("", "train.jsonl: contains no rows"),
    ],
)
def test_what_is_wrong_with_more_than_single_rows_is_an_error_even_where_rows_are_skipped(
    folder: Path, content: str, said: str
) -> None:
    (folder / "train.jsonl").write_text(content)
    with pytest.raises(DataError, match=said):
        read_from(folder, "data.on_bad_row=skip")


def test_a_bad_sentence_is_skipped_with_all_its_words(folder: Path) -> None:
    (folder / "train.conll").write_text("EU B-ORG\nrejects O\n\nOn O\nIt I-PER\nGo I-LOC\n\nLamb\n\nBonn B-LOC\n")
    found, _ = read_from(
        folder, "task={kind: token_classification, scheme: bio}", f"data.train={folder}/train.conll",
        "data.on_bad_row=skip",
    )  # fmt: skip
    assert [row.values["tokens"] for row in found.rows["train"]] == [["EU", "rejects"], ["Bonn"]]
    assert found.report["bad_rows"]["rows"] == {"train": 2}
    assert found.facts["types"] == ["LOC", "ORG"]


def test_leaks_are_always_counted_and_noted(folder: Path) -> None:
    (folder / "train.jsonl").write_text(
        jsonl(*reviews("good", "bad", "good ", "warm"), {"text": "bad", "label": "positive"})
    )
    (folder / "dev.jsonl").write_text(jsonl(*reviews(" warm", "new")))
    found, said = read_from(folder, f"data.dev={folder}/dev.jsonl")
    assert len(found.rows["train"]) == 5
    (leak,) = found.report["leaks"]
    assert (leak["of"], leak["inside"], leak["rows"]) == ("dev", "train", 1)
    assert (found.report["duplicates"], found.report["conflicts"]) == ({"train": 1, "dev": 0}, {"train": 2, "dev": 0})
    assert said == [
        "leak: 1 dev row (50.0%) with the same input as a train row, such as dev.jsonl:1 = train.jsonl:4; "
        "data.deduplicate=train drops those train rows",
        "train: 1 duplicate of earlier rows (20.0%)",
        "train: 2 rows with the same input as another row but a different answer",
    ]


def test_duplicates_are_dropped_on_request_and_the_facts_are_about_the_rows_left(folder: Path) -> None:
    (folder / "train.jsonl").write_text(jsonl(*reviews("good", "bad", "good", "warm", "a film")))
    (folder / "dev.jsonl").write_text(jsonl(*reviews("warm", "cold", "warm")))
    found, said = read_from(folder, "data.deduplicate=train", f"data.dev={folder}/dev.jsonl")
    assert (texts(found), texts(found, "dev")) == (["good", "bad", "a film"], ["warm", "cold", "warm"])
    assert found.facts["label_counts"]["train"] == {"positive": 2, "negative": 1}
    assert found.report["deduplicated"] == {"train": 2, "dev": 0}
    assert said[0].endswith("with the same input as a train row, such as dev.jsonl:1 = train.jsonl:4")
    assert said[-1] == "duplicates dropped (data.deduplicate: train): 2 of train"
    found, _ = read_from(folder, "data.deduplicate=all", f"data.dev={folder}/dev.jsonl")
    assert texts(found, "dev") == ["warm", "cold"]


def test_a_good_row_is_not_dropped_for_a_bad_one_before_it(folder: Path) -> None:
    (folder / "train.jsonl").write_text(jsonl({"text": "good", "label": None}, *reviews("good", "bad")))
    found, _ = read_from(folder, "data.deduplicate=train", "data.on_bad_row=skip")
    assert texts(found) == ["good", "bad"]


def test_a_share_of_the_training_rows_becomes_another_split(folder: Path) -> None:
    (folder / "train.jsonl").write_text(jsonl(*reviews(*(f"film {number}" for number in range(200)))))
    found, said = read_from(folder, "data.dev={fraction: 0.2}", "data.test={fraction: 0.1}")
    assert list(found.rows) == ["train", "dev", "test"]
    assert sorted(text for split in found.rows for text in texts(found, split)) == sorted(
        f"film {n}" for n in range(200)
    )
    assert 20 < len(found.rows["dev"]) < 60 and 5 < len(found.rows["test"]) < 40
    assert said[0].endswith(f"dev: {len(found.rows['dev'])} of 200 training rows are held out "
                            f"({len(found.rows['dev']) / 200:.1%})")  # fmt: skip
    with pytest.raises(DataError, match=r"data\.dev: no rows left for it out of 200; change the fractions"):
        read_from(folder, "data.dev={fraction: 0.0001}")
    with pytest.raises(
        DataError, match=r"data\.dev\.group: no training row has a column 'chat'; columns, after renaming: text, label"
    ):
        read_from(folder, "data.dev={fraction: 0.1, group: chat}")


def test_a_held_out_row_whose_label_no_training_row_has_is_kept_in_train(folder: Path) -> None:
    rows = [{"text": f"film {n}", "label": ("positive", "negative")[n % 2]} for n in range(80)]
    share = "data.dev={fraction: 0.5}"
    (folder / "train.jsonl").write_text(jsonl(*rows))
    held_out, _ = read_from(folder, share)
    text = texts(held_out, "dev")[0]
    rare = [{**row, "label": "rare"} if row["text"] == text else row for row in rows]
    (folder / "train.jsonl").write_text(jsonl(*rare))
    found, notes = read_from(folder, share)
    assert text in texts(found) and texts(found, "dev") == texts(held_out, "dev")[1:]
    assert found.facts["label_counts"]["train"]["rare"] == 1
    assert "dev: 1 held-out row is kept in train: no other training row has its label" in notes[-1]


def test_a_row_without_a_group_is_bad_like_any_other(folder: Path) -> None:
    rows = [{"text": f"film {n}", "label": ("positive", "negative")[n % 2], "chat": n // 4} for n in range(80)]
    (folder / "train.jsonl").write_text(jsonl(*rows, *reviews("alone")))
    with pytest.raises(DataError, match=r"train\.jsonl:81: no chat, the group by which rows are held out"):
        read_from(folder, "data.dev={fraction: 0.3, group: chat}")
    found, _ = read_from(folder, "data.dev={fraction: 0.3, group: chat}", "data.on_bad_row=skip")
    chats = {split: {row.values["chat"] for row in rows} for split, rows in found.rows.items()}
    assert not chats["train"] & chats["dev"] and len(chats["train"] | chats["dev"]) == 20
    assert found.report["bad_rows"]["rows"] == {"train": 1}


def test_every_path_that_matches_nothing_is_reported(folder: Path) -> None:
    recipe = tiny_recipe(
        folder, f"data.train=[{folder}/a.csv, {folder}/b.xml]", f"data.dev={folder}/*.tsv", "data.test=null"
    )
    with pytest.raises(DataError) as raised:
        sources_content(recipe, Fingerprints(folder))
    assert [line.removeprefix(f"{folder}/").split(";")[0] for line in str(raised.value).splitlines()] == [
        "a.csv: no such file",
        "b.xml: no such file",
        "*.tsv: no file matches",
    ]


def test_prepared_examples_know_their_source_and_the_notes_are_said_again(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "more.csv").write_text("review,label\ngood film,positive\nbad film,negative\n")
    recipe = tiny_recipe(folder, f"data.train=[{folder}/train.jsonl, {folder}/more.csv]")
    first: list[str] = []
    train = prepare(recipe, say=first.append).split("train")
    assert train is not None and train.sources.tolist() == [0] * 67 + [1] * 2
    again: list[str] = []
    prepared = prepare(recipe, say=again.append)
    assert again == [text for text in first if not text.startswith("tokenizing")] == prepared.meta["notes"]
    assert f"{folder}/more.csv: using column review as text (a guess; set data.columns to change it)" in again
    assert prepared.meta["leaks"] and set(prepared.meta["bad_rows"]) == {"rows", "reasons", "first"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["data.columns={{text: text}}"],
        ["data.train=[{{path: {folder}/train.jsonl, columns: {{text: text}}}}]"],
        ["data.train=[{folder}/train.jsonl, {folder}/train.jsonl]"],
        ["data.train=[{folder}/train.jsonl, {folder}/dev.jsonl]", "data.dev=null"],
        ["data.dev={{fraction: 0.1}}"],
        ["data.dev={{fraction: 0.1, seed: 1}}"],
        ["data.dev=null"],
        ["data.on_bad_row=skip"],
        ["data.deduplicate=train"],
        ["data.guess_columns=false"],
        ["data.text_unit=file"],
    ],
)
def test_what_decides_the_rows_names_the_prepared_folder(tmp_path: Path, overrides: list[str]) -> None:
    folder = write_tiny(tmp_path)
    changed = tiny_recipe(folder, *(text.format(folder=folder) for text in overrides))
    assert fingerprint(changed) != fingerprint(tiny_recipe(folder))


@pytest.mark.parametrize(
    "override",
    [
        "data.train={folder}/train.*",
        "data.train=[{{path: {folder}/train.jsonl, weight: 3, name: reviews}}]",
        "data.train={folder}/copy/train.jsonl",
    ],
)
def test_weights_names_and_places_do_not(tmp_path: Path, override: str) -> None:
    folder = write_tiny(tmp_path)
    (folder / "copy").mkdir()
    (folder / "copy" / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes())
    changed = tiny_recipe(folder, override.format(folder=folder))
    assert fingerprint(changed) == fingerprint(tiny_recipe(folder))


def test_one_more_file_in_a_folder_is_other_data(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "rows").mkdir()
    (folder / "train.jsonl").rename(folder / "rows" / "a.jsonl")
    recipe = tiny_recipe(folder, f"data.train={folder}/rows")
    before = fingerprint(recipe)
    (folder / "rows" / "b.jsonl").write_text(jsonl(*reviews("good")))
    assert fingerprint(recipe) != before


@pytest.mark.parametrize(("which", "emptied"), [("train", "train"), ("all", "dev")])
def test_a_split_without_rows_left_is_reported(folder: Path, which: str, emptied: str) -> None:
    (folder / "train.jsonl").write_text(jsonl(*reviews("a b", "c d")))
    other = {"train": "dev", "dev": "test"}[emptied]
    (folder / f"{emptied}.jsonl").write_text(jsonl(*reviews("e f", "g h")))
    (folder / f"{other}.jsonl").write_text(jsonl(*reviews("e f", "g h")))
    splits = [f"data.{name}={folder}/{name}.jsonl" for name in {"train", emptied, other}]
    with pytest.raises(DataError) as raised:
        read_from(folder, f"data.deduplicate={which}", *splits)
    assert str(raised.value) == (
        f"data.{emptied}: no rows left: all 2 are duplicates within this or another split (data.deduplicate: {which})"
    )
