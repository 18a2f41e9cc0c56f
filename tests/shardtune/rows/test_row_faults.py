"""Faults are counted by rows and reasons, and it is known whether skipping rows would resolve them."""

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
