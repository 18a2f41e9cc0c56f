"""Faults are counted by rows and reasons, and it is known whether skipping rows would resolve them."""

import pickle
from pathlib import Path

import pytest

from shardtune.rows.input_file import File
from shardtune.rows.row_faults import BadRowsError, Faults
from shardtune.rows.source import Row

ROWS = [Row({}, Path("a.conll"), line, has_word_a_line=True) for line in (1, 5, 9)]


def test_a_row_counts_once_by_its_first_fault() -> None:
    faults = Faults()
    faults.add(ROWS[0], "no label")
    faults.add(ROWS[1], "token 3: expected a word, got ''")
    faults.add(ROWS[1].word(2), "token 12: expected a word, got None")
    faults.add(ROWS[0], "text is empty")
    faults.add(ROWS[2].word(1), "type 'PRE' is not in the training rows; legal: LOC, PER")
    assert (faults.num_rows, faults.are_rows_alone) == (3, True)
    assert dict(faults.reasons) == {
        "no label": 1,
        "token …: expected a word": 1,
        "type … is not in the training rows": 1,
    }
    assert faults.rows == {row.key for row in ROWS}
    assert faults.first[2] == "a.conll:7: token 12: expected a word, got None"


def test_rows_that_could_not_be_read_are_counted_but_have_no_key() -> None:
    file, faults = File(Path("a.conll")), Faults()
    faults.add(file.place(2, of_row=1), "1 columns, but the file's first word has 2")
    faults.add(file.place(3, of_row=1), "3 columns, but the file's first word has 2")
    faults.add(file.place(9), "not UTF-8 (byte 3 of the line is 0xff)")
    assert (faults.num_rows, faults.rows, faults.are_rows_alone) == (2, set(), True)
    assert dict(faults.reasons) == {"… columns, but the file's first word has …": 1, "not UTF-8": 1}


@pytest.mark.parametrize("where", [Path("a.csv"), "a.csv:3", "data.dev"])
def test_a_fault_without_a_row_concerns_more_than_a_row(where: object) -> None:
    faults = Faults()
    faults.add(ROWS[0], "no label")
    faults.add(where, "malformed")
    assert not faults.are_rows_alone


def test_two_collections_can_be_merged() -> None:
    one, other, both = Faults(shown=2), Faults(), Faults(shown=2)
    for faults, line in ((one, 1), (one, 2), (other, 3)):
        faults.add(Row({}, Path("a.csv"), line), "no label")
    other.add("b.csv", "contains no rows")
    both.update(one)
    both.update(other)
    assert (both.num_rows, both.are_rows_alone, dict(both.reasons)) == (3, False, {"no label": 3})
    with pytest.raises(BadRowsError) as raised:
        both.raise_if_any()
    assert str(raised.value) == "a.csv:1: no label\na.csv:2: no label\n… and 2 more"
    assert raised.value.faults is both


def added(*faults: tuple[int, str], shown: int = 10) -> Faults:
    """A collection of faults of rows, given by their lines."""
    collected = Faults(shown)
    for line, what in faults:
        collected.add(Row({}, Path("a.jsonl"), line), what)
    return collected


def test_a_cause_that_repeats_is_one_line_with_a_count_and_the_first_three_places() -> None:
    faults = added((2, "text is empty"), *((line, "no label") for line in range(3, 491)), (500, "text is empty"))
    assert str(faults).splitlines() == [
        "a.jsonl:2: text is empty",
        "a.jsonl:3: no label (and 487 more rows: a.jsonl:4, a.jsonl:5, …)",
        "a.jsonl:500: text is empty",
    ]
    assert (faults.num_rows, len(faults.first)) == (490, 10)


def test_faults_of_one_reason_are_apart_by_their_texts_while_these_are_few() -> None:
    few = added(*((line, f"label {'ab'[line % 2]!r} is not in the training rows") for line in range(1, 6)))
    assert str(few).splitlines() == [
        "a.jsonl:1: label 'b' is not in the training rows (and 2 more rows: a.jsonl:3, a.jsonl:5)",
        "a.jsonl:2: label 'a' is not in the training rows (and 1 more row: a.jsonl:4)",
    ]
    many = added(*((line, f"label 'l{line}' is not in the training rows") for line in range(1, 6)))
    assert str(many) == (
        "a.jsonl:1: label 'l1' is not in the training rows (and 4 more rows like it: a.jsonl:2, a.jsonl:3, …)"
    )


def test_faults_of_the_same_row_or_of_whole_files_are_not_counted_as_rows() -> None:
    words, files = Faults(), Faults()
    for at in range(5):
        words.add(ROWS[0].word(at), "'X' is not a tag")
        files.add(Path(f"{at}.csv"), "contains no rows")
    assert str(words) == "a.conll:1: 'X' is not a tag (and 4 more: a.conll:2, a.conll:3, …)"
    assert str(files) == "0.csv: contains no rows (and 4 more: 1.csv, 2.csv, …)"


def test_a_report_has_a_line_for_each_of_the_first_reasons_and_counts_the_others() -> None:
    kinds = ["no a", "no b", "no c"]
    faults = added(*((line, kinds[line % 3 - 1]) for line in range(1, 13)), shown=2)
    lines = str(faults).splitlines()
    assert [line.split(" (and")[0] for line in lines] == ["a.jsonl:1: no a", "a.jsonl:2: no b", "… and 4 more"]


def test_merged_and_pickled_collections_report_as_one() -> None:
    one, other = added(*((line, "no label") for line in (1, 2))), added(*((line, "no label") for line in (7, 8, 9)))
    one.update(pickle.loads(pickle.dumps(other)))
    one.add(Row({}, Path("a.jsonl"), 10), "text is empty")
    assert str(one).splitlines() == [
        "a.jsonl:1: no label (and 4 more rows: a.jsonl:2, a.jsonl:7, …)",
        "a.jsonl:10: text is empty",
    ]
    error = pickle.loads(pickle.dumps(BadRowsError(one)))
    assert str(error) == str(one)
