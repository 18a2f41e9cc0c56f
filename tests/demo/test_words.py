"""The questions of recipes/multiple_choice.yaml."""

import json
from pathlib import Path

import pytest

from demo.fetch import CACHE, FetchError
from demo.words import SPLITS, Noun, nouns, questions, write_rows

INDEX = """\
  1 This software and database is being provided to you
cat n 2 2 @ ~ 2 1 00000000 00000099
dog n 1 2 @ ~ 1 1 00000060
two_words n 1 2 @ ~ 1 1 00000000
rare n 1 2 @ ~ 1 1 00000000
category n 1 2 @ ~ 1 1 00000000
"""
COUNTS = "cat%1:05:00:: 1 18\ndog%1:05:00:: 1 42\ncat%2:05:00:: 1 99\nrare%1:05:00:: 1 1\ntwo_words%1:05:00:: 1 9\n"


def test_common_nouns_have_the_definition_of_their_commonest_sense(tmp_path: Path) -> None:
    data = '00000000 05 n 01 cat 0 000 | a small furry animal that purrs; "a cat"'
    assert len(data) > 60
    at = len(data) + 1
    (tmp_path / "data.noun").write_text(f"{data}\n{at:08} 05 n 01 dog 0 000 | an animal that barks at night\n")
    (tmp_path / "index.noun").write_text(INDEX.replace("00000060", f"{at:08}"))
    (tmp_path / "cntlist.rev").write_text(COUNTS)
    assert list(nouns(tmp_path)) == [
        Noun("cat", "a small furry animal that purrs"),
        Noun("dog", "an animal that barks at night"),
    ]


def test_each_noun_is_asked_for_once_among_others_of_its_split() -> None:
    found = [Noun(f"w{number}", f"the meaning of number {number}") for number in range(200)]
    seen = []
    for split in SPLITS:
        rows = list(questions(found, split))
        for row in rows:
            choices, answer = row["choices"], row["answer"]
            assert isinstance(choices, list) and isinstance(answer, int) and len(set(choices)) == 4
            assert all(Noun(word, "").split == split for word in choices)
            seen.append(choices[answer])
        assert rows == list(questions(found, split))
    assert sorted(seen) == sorted(noun.word for noun in found)


def test_the_questions_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        summary = write_rows()
    except FetchError as error:
        pytest.skip(str(error)) if "no apt-get" in str(error) else pytest.fail(str(error))
    assert "850 questions" in summary
    rows = [json.loads(line) for line in (CACHE / "demo/words/test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {
        "question": "a secondary school (usually private)",
        "choices": ["academy", "adhesive", "infiltration", "ruling"],
        "answer": 0,
    } in rows
    monkeypatch.setattr("demo.words.unpack", lambda *_: pytest.fail("the package was read again"))
    assert write_rows() == summary
