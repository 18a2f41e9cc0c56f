"""Five hundred malformed inputs, each of which ends in examples or in an error in words."""

from pathlib import Path

import pytest

from shardtune.rows.formats import FORMATS
from tests.fuzz.inputs import ROWS, make_place, rounds


@pytest.mark.timeout(600)
def test_no_malformed_input_ends_in_anything_but_examples_or_an_error_in_words(tmp_path: Path) -> None:
    outcomes = list(rounds(make_place(tmp_path), range(500)))
    tried = {name for text in outcomes for name in text.split(": ")[1].split(", ")}
    assert tried == {*FORMATS, *ROWS, "none"}
    accepted = sum(text.endswith(" examples") for text in outcomes)
    assert 50 < accepted < 450  # neither are all refused for one reason, nor is damage overlooked
