"""The survey reads rows however they are written, tells it once, and names what has no clear meaning."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from shardtune.errors import DataError
from shardtune.recipe.load import parse_recipe
from shardtune.recipe.tasks.token_classification import TokenClassificationOptions
from shardtune.rows.source import Row, read_rows
from shardtune.trainer.data.prepare.splits import SplitRows, read_splits
from shardtune.trainer.data.prepare.work_queue import WorkQueue
from shardtune.trainer.tasks.run_survey import survey
from shardtune.trainer.tasks.token_classification.token_classification import TokenClassification

BARE = "Familial B\nadenomatous I\npolyposis I\nis O\nrare O\n\nThe O\nasthma B\nwas O\nmild O\n"


def split_rows(folder: Path, name: str, content: str, task: str = "", data: str = "") -> tuple[SplitRows, list[str]]:
    """The rows of a recipe that trains on a file with this content, and the notes without the name of the file."""
    (folder / name).write_text(content, encoding="utf-8")
    text = (
        f"task: {{kind: token_classification{task}}}\nmodel: {{path: owner/name}}\n"
        f"data: {{train: {folder / name}{data}}}\n"
    )
    notes: list[str] = []
    return read_splits(parse_recipe(text), notes.append, WorkQueue(folder / "work")), [
        note.replace(f"{folder}/", "") for note in notes
    ]


def row(line: int = 1, path: str = "r.jsonl", **values: Any) -> Row:
    return Row(values, Path(path), line)


def messages_of(*rows: Row, **values: Any) -> list[str]:
    with pytest.raises(DataError) as raised:
        survey(TokenClassification, TokenClassificationOptions(kind="token_classification", **values), {"train": rows})
    return str(raised.value).splitlines()


def test_tags_without_a_type_are_of_one_type_which_the_recipe_may_name(tmp_path: Path) -> None:
    found, notes = split_rows(tmp_path, "a.conll", BARE)
    assert found.facts["types"] == ["ENTITY"]
    assert found.facts["span_counts"] == {"train": {"ENTITY": 2}}
    assert notes == [
        "tags without a type: 4, read with one (task.types names it): 'B' as 'B-ENTITY', 'I' as 'I-ENTITY'"
    ]
    (tmp_path / "named").mkdir()
    named, _ = split_rows(tmp_path / "named", "a.conll", BARE, task=", types: [DISEASE]")
    assert named.facts["span_counts"] == {"train": {"DISEASE": 2}}


def test_tags_without_a_type_beside_others_are_named() -> None:
    rows = [row(1, tokens=["a"], tags=["B-PER"]), row(2, tokens=["a"], tags=["B"])]
    what = "'B' is not a tag of BIO; legal: O, B-TYPE, I-TYPE. It names no type, but"
    assert messages_of(*rows) == [f"r.jsonl:2: tag 1: {what} other tags have one"]
    assert messages_of(*rows, types=("PER", "LOC")) == [f"r.jsonl:2: tag 1: {what} task.types has 2"]


@pytest.mark.parametrize(
    ("content", "task", "counts"),
    [
        ("tokens,tags\n\"['Ann', 'left']\",\"['B-PER', 'O']\"\n", "", {"PER": 1}),
        ('tokens,tags\n"[""Ann"", ""left""]","[""B-PER"", ""O""]"\n', "", {"PER": 1}),
        ("tokens,tags\n\"['Ann' 'left']\",\"['B-PER' 'O']\"\n", "", {"PER": 1}),
        ("tokens,tags\nAnn left,B-PER O\n", "", {"PER": 1}),
        ("sentence,labels\nAnn left,B-PER O\n", "", {"PER": 1}),
        ("tokens,tags\nAnn left,[1 0]\n", ", tag_names: [O, B-PER, I-PER]", {"PER": 1}),
        ("words,ner\nAnn left Ulm,PER O LOC\n", ", scheme: io", {"LOC": 1, "PER": 1}),
        ("text,spans\nAnn left,\"[(0, 3, 'PER')]\"\n", "", {"PER": 1}),
    ],
)
def test_lists_in_the_cells_of_a_table_are_read(
    tmp_path: Path, content: str, task: str, counts: dict[str, int]
) -> None:
    found, _ = split_rows(tmp_path, "a.csv", content, task)
    assert found.facts["span_counts"] == {"train": counts}


def test_what_was_converted_is_said_once_with_a_count(tmp_path: Path) -> None:
    _, notes = split_rows(tmp_path, "a.csv", "tokens,tags\nAnn left,b-per o\nBo left,b-per o\nCy left,b-per o\n")
    assert [note for note in notes if "read" in note or "split at" in note] == [
        "tokens: 3 rows with a text, split at blanks",
        "tags: 3 rows with a text, split at blanks",
        "tags: 6 of another form read as PREFIX-TYPE: 'b-per' as 'B-per', 'o' as 'O'",
    ]


def test_words_and_tags_of_different_number_are_named_with_both_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: 1 tags for 2 tokens$"):
        split_rows(tmp_path, "a.csv", "tokens,tags\nAnn left,B-PER\n")


def test_a_file_of_words_read_as_lines_of_text_is_one_line_with_the_cure() -> None:
    (line,) = messages_of(*(row(line, "a.txt", text="EU B-ORG") for line in range(1, 2728)))
    assert line == (
        "a.txt:1: no spans; this was read as lines of text: if each is a word and its tag, set format: conll for it "
        "(and 2,726 more rows: a.txt:2, a.txt:3, …)"
    )


def test_a_bad_tag_is_named_with_its_line_also_where_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    rest = "_\t" * 7
    path.write_text(f"1-2\tau\t{rest}_\n1\tà\t{rest}ner=O\n1.1\tx\t{rest}_\n2\tle\t{rest}ner=B-X\n\n"
                    f"1\ta\t{rest}ner=O\n1.1\tx\t{rest}_\n2\tb\t{rest}ner=I-X\n", encoding="utf-8")  # fmt: skip
    assert [line.split(": ")[0] for line in messages_of(*read_rows(path, {}))] == [f"{path}:8"]


def test_a_text_that_nobody_has_annotated_is_no_example(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ann"]), encoding="utf-8")
    tokenizer = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    facts = {"types": ["PER"], "scheme": "bio", "keep_inner": False}
    options = TokenClassificationOptions(kind="token_classification")
    task = TokenClassification(options, facts, tokenizer, transformers.BertConfig())
    values = {"data": {"text": "Ann"}, "annotations": [{"was_cancelled": True, "result": []}]}
    rows = [Row({**values, **task.named_columns(options, values)}, Path("r.jsonl"), 1), row(2, text="Ann", spans=[])]
    assert [len(examples) for examples in task.encode(rows, 16, labeled=True)] == [0, 1]
    assert [len(examples) for examples in task.encode(rows, 16, labeled=False)] == [1, 1]


def test_the_line_of_a_word_does_not_depend_on_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("In O\n\nBo B-X\nCy PER\n", encoding="utf-8")
    rows = [Row(read.values, Path("a.iob2"), read.line) for read in read_rows(tmp_path / "a.conll", {})]
    assert [line.split(": tag")[0] for line in messages_of(*rows)] == ["a.iob2:4"]
